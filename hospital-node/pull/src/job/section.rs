//! One table of a configuration, read key by key; what is wrong is gathered.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

pub(super) struct Section<'a> {
    name: &'a str,
    table: Option<&'a Table>,
    base: &'a Path,
    asked: Vec<&'static str>,
    faults: &'a mut Vec<String>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        name: &'a str,
        table: Option<&'a Table>,
        base: &'a Path,
        faults: &'a mut Vec<String>,
    ) -> Self {
        Self { name, table, base, asked: Vec::new(), faults }
    }

    pub(super) const fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        self.table.and_then(|table| table.get(key))
    }

    pub(super) fn say(&mut self, key: &str, fault: &str) {
        self.faults.push(format!("{}.{key}: {fault}", self.name));
    }

    fn fault(&mut self, key: &str, found: &str, allowed: &str, example: &str) {
        self.say(key, &format!("found {found}; allowed: {allowed}; for example {example}"));
    }

    pub(super) fn missing(&mut self, key: &str, allowed: &str, example: &str) {
        self.fault(key, "nothing", allowed, example);
    }

    /// The value is not repeated: it could be a secret in the wrong place.
    pub(super) fn wrong(&mut self, key: &str, allowed: &str, example: &str) {
        self.fault(key, "something else", allowed, example);
    }

    pub(super) fn text(&mut self, key: &'static str, example: &str) -> Option<String> {
        let value = self.take(key)?;
        let text =
            value.as_str().filter(|text| !text.is_empty() && !text.contains(char::is_control));
        if text.is_none() {
            self.wrong(key, "one line of text", example);
        }
        text.map(str::to_owned)
    }

    pub(super) fn path(&mut self, key: &'static str, example: &str) -> Option<PathBuf> {
        self.text(key, example).map(|text| self.base.join(text))
    }

    pub(super) fn pair(
        &mut self,
        one: &'static str,
        other: &'static str,
        examples: [&str; 2],
    ) -> Option<(PathBuf, PathBuf)> {
        match (self.path(one, examples[0]), self.path(other, examples[1])) {
            (Some(first), Some(second)) => Some((first, second)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                self.wrong(one, &format!("{one} and {other} together, or neither"), examples[0]);
                None
            }
        }
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        if value.as_bool().is_none() {
            self.wrong(key, "true or false", "false");
        }
        value.as_bool()
    }

    /// One text or several.
    pub(super) fn list(&mut self, key: &'static str, example: &str) -> Vec<String> {
        let texts: Option<Vec<String>> = match self.take(key) {
            None => return Vec::new(),
            Some(Value::String(text)) => Some(vec![text.clone()]),
            Some(value) => value
                .as_array()
                .and_then(|list| list.iter().map(|one| one.as_str().map(str::to_owned)).collect()),
        };
        if texts.as_ref().is_none_or(Vec::is_empty) {
            self.wrong(key, "a list of texts", example);
        }
        texts.unwrap_or_default()
    }

    /// Words of capitals and digits, as the standard's codes are.
    pub(super) fn codes(&mut self, key: &'static str, example: &str) -> Vec<String> {
        let codes = self.list(key, example);
        let fits = |code: &String| {
            (1..=16).contains(&code.len())
                && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        };
        if !codes.iter().all(fits) {
            self.wrong(key, "codes of the standard", example);
        }
        codes
    }

    pub(super) fn finish(self) {
        let Self { name, table, asked, faults, .. } = self;
        for key in table.into_iter().flat_map(Table::keys) {
            if !asked.contains(&key.as_str()) {
                faults.push(format!("{name}.{key}: found a key that we do not know"));
            }
        }
    }
}
