//! Reads one TOML table key by key and keeps every fault, so that a person sees all of them at once.

use std::collections::BTreeSet;
use std::time::Duration;

use aggregation::study::StudyFault;
use toml::{Table, Value};

/// One table that is being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    path: &'a str,
    table: Option<&'a Table>,
    known: BTreeSet<&'static str>,
}

impl<'a> Section<'a> {
    /// The root of the document.
    pub(super) fn root(table: &'a Table) -> Self {
        Self { path: "", table: Some(table), known: BTreeSet::new() }
    }

    /// The table under `key` of this one; a missing one reads as empty.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        path: &'a str,
        faults: &mut Vec<StudyFault>,
    ) -> Self {
        let table = self.take(key).and_then(|value| {
            let table = value.as_table();
            if table.is_none() {
                faults.push(fault(path, &shown(value), "a table"));
            }
            table
        });
        Self { path, table, known: BTreeSet::new() }
    }

    /// Whether a table is written under `key`.
    pub(super) fn is_table(&self, key: &str) -> bool {
        self.table.and_then(|table| table.get(key)).is_some_and(Value::is_table)
    }

    /// Whether anything was written here.
    pub(super) fn present(&self) -> bool {
        self.table.is_some()
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.insert(key);
        self.table.and_then(|table| table.get(key))
    }

    /// The key's full name.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        default: Option<T>,
        allowed: &str,
        faults: &mut Vec<StudyFault>,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        match self.take(key) {
            None if default.is_some() => default,
            None => {
                faults.push(fault(&self.name(key), "nothing", allowed));
                None
            }
            Some(value) => {
                let read = convert(value);
                if read.is_none() {
                    faults.push(fault(&self.name(key), &shown(value), allowed));
                }
                read
            }
        }
    }

    /// A text.
    pub(super) fn text(
        &mut self,
        key: &'static str,
        default: Option<&str>,
        faults: &mut Vec<StudyFault>,
    ) -> Option<String> {
        let default = default.map(str::to_owned);
        self.read(key, default, "a text", faults, |value| value.as_str().map(str::to_owned))
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        default: Option<T>,
        words: &[(&str, T)],
        faults: &mut Vec<StudyFault>,
    ) -> Option<T> {
        let listed: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.read(key, default, &listed.join(" or "), faults, |value| {
            let found = value.as_str()?;
            words.iter().find(|(word, _)| *word == found).map(|(_, meaning)| *meaning)
        })
    }

    /// A whole number, not negative, that fits `T`.
    pub(super) fn whole<T: TryFrom<i64>>(
        &mut self,
        key: &'static str,
        default: Option<T>,
        faults: &mut Vec<StudyFault>,
    ) -> Option<T> {
        let bits = size_of::<T>() * 8;
        let allowed = format!("a whole number from 0 that fits {bits} bits");
        self.read(key, default, &allowed, faults, |value| {
            value.as_integer().filter(|n| *n >= 0).and_then(|n| T::try_from(n).ok())
        })
    }

    /// A finite number.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        default: Option<f64>,
        faults: &mut Vec<StudyFault>,
    ) -> Option<f64> {
        self.read(key, default, "a finite number", faults, finite)
    }

    /// A list of finite numbers.
    pub(super) fn numbers(
        &mut self,
        key: &'static str,
        default: Option<Vec<f64>>,
        faults: &mut Vec<StudyFault>,
    ) -> Option<Vec<f64>> {
        self.read(key, default, "a list of finite numbers", faults, |value| {
            value.as_array()?.iter().map(finite).collect()
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(
        &mut self,
        key: &'static str,
        default: Option<bool>,
        faults: &mut Vec<StudyFault>,
    ) -> Option<bool> {
        self.read(key, default, "true or false", faults, Value::as_bool)
    }

    /// A length of time with its unit.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Option<Duration>,
        faults: &mut Vec<StudyFault>,
    ) -> Option<Duration> {
        self.read(key, default, "a duration such as \"120s\" or \"30m\"", faults, |value| {
            value.as_str().and_then(|text| humantime::parse_duration(text).ok())
        })
    }

    /// A list of texts.
    pub(super) fn texts(
        &mut self,
        key: &'static str,
        default: Option<Vec<String>>,
        faults: &mut Vec<StudyFault>,
    ) -> Option<Vec<String>> {
        self.read(key, default, "a list of texts", faults, |value| {
            let list = value.as_array()?;
            list.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    /// Names what was written here and means nothing.
    pub(super) fn finish(self, faults: &mut Vec<StudyFault>) {
        let Some(table) = self.table else { return };
        let known: Vec<&str> = self.known.iter().copied().collect();
        for key in table.keys().filter(|key| !self.known.contains(key.as_str())) {
            let allowed = format!("one of {}", known.join(", "));
            faults.push(fault(&self.name(key), "an unknown field", &allowed));
        }
    }
}

fn finite(value: &Value) -> Option<f64> {
    let small = |n: i64| i32::try_from(n).ok().map(f64::from);
    value.as_float().or_else(|| value.as_integer().and_then(small)).filter(|x| x.is_finite())
}

/// A fault at a key.
pub(super) fn fault(key: &str, found: &str, allowed: &str) -> StudyFault {
    StudyFault { key: key.to_owned(), found: found.to_owned(), allowed: allowed.to_owned() }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 {
        let head: String = text.chars().take(77).collect();
        format!("{head}...")
    } else {
        text
    }
}
