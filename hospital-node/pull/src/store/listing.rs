//! What of the folder is in the list of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::journal::Line;
use super::manifest::{Entry, List};
use super::{Done, MANIFEST, Store, StoreError, UNFINISHED, file_of, folder_of, sync};
use crate::job::Rows;

/// What the list is to be.
pub struct Listing<'a> {
    /// What a row stands for.
    pub rows: Rows,
    /// Series that are here whole. Of others no new row is made that stands for all of them.
    pub whole: &'a BTreeSet<String>,
    /// Whether an image's patient is asked for.
    pub asked: &'a dyn Fn(&Done) -> bool,
}

impl std::fmt::Debug for Listing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listing").field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// What came of listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Images that are here, and whose patients are not asked for.
    pub off_list: usize,
    /// Rows that were taken out, because they were of patients who are not asked for.
    pub taken_out: usize,
    /// Images that are here and asked for, and that no row names, nor their series' folder.
    pub not_listed: usize,
}

/// What rows must not lead to, or say.
struct Off<'d> {
    /// Folders of series that have an image of a patient who is not asked for.
    series: BTreeSet<&'d str>,
    /// Images of the others in them.
    others: BTreeSet<PathBuf>,
    /// Patients who are not asked for.
    patients: BTreeSet<&'d str>,
}

impl<'d> Off<'d> {
    fn new(off: &[&'d Done], asked: &[&'d Done]) -> Self {
        let series: BTreeSet<&str> = off.iter().map(|one| one.series.as_str()).collect();
        let others = asked.iter().filter(|one| series.contains(one.series.as_str()));
        let mut patients: BTreeSet<&str> = off.iter().map(|one| one.patient.as_str()).collect();
        for one in asked {
            patients.remove(one.patient.as_str());
        }
        Self { others: others.map(|one| file_of(one)).collect(), series, patients }
    }

    /// Whether a row is of one of them, whoever has written it.
    fn has(&self, place: Option<&Path>, patient: Option<&str>) -> bool {
        let within = |place: &Path| {
            let series = place.iter().next().and_then(OsStr::to_str);
            series.is_some_and(|series| self.series.contains(series))
                && !self.others.contains(place)
        };
        place.is_some_and(within) || patient.is_some_and(|patient| self.patients.contains(patient))
    }
}

impl Store {
    /// Brings the list up to date: adds what was never in it, takes out what is of patients who are
    /// not asked for, whoever has written it; all else stays as it is.
    ///
    /// # Errors
    /// The disk, or a list that is no CSV with a column `path` any more.
    pub fn list(&mut self, wanted: &Listing<'_>) -> Result<Listed, StoreError> {
        let file = self.manifest();
        let found = List::read(&file)?;
        // Without a list all is new.
        let (new, mut list) = (found.is_none(), found.unwrap_or_else(List::new));
        let (asked, mut off): (Vec<&Done>, Vec<&Done>) =
            self.kept().partition(|one| (wanted.asked)(one));
        let off_list = off.len();
        // A file that was removed already has a row all the same.
        off.extend(self.gone.values().filter(|one| !(wanted.asked)(one)));
        let names = off.iter().flat_map(|one| [&one.instance, &one.series]);
        let gone: BTreeSet<&String> =
            names.filter(|name| self.state.listed.contains(*name)).collect();
        let mut lines: Vec<Line> =
            gone.iter().map(|name| Line::Unlisted((*name).clone())).collect();
        let is_listed =
            |name: &String| !new && self.state.listed.contains(name) && !gone.contains(name);
        let off = Off::new(&off, &asked);
        let taken_out = list.drop(|place, patient| off.has(place, patient));
        let before = list.places();

        let was_listed: BTreeSet<&str> = asked
            .iter()
            .filter(|one| is_listed(&one.instance))
            .map(|one| one.series.as_str())
            .collect();
        let mut entries: BTreeMap<PathBuf, (&String, &Done)> = BTreeMap::new();
        for one in &asked {
            let (name, path) = match wanted.rows {
                Rows::Image => (&one.instance, file_of(one)),
                Rows::Series => (&one.series, folder_of(one)),
            };
            // Neither twice nor in two ways.
            let there = match wanted.rows {
                Rows::Image => is_listed(&one.instance) || is_listed(&one.series),
                Rows::Series => {
                    is_listed(&one.series)
                        || was_listed.contains(one.series.as_str())
                        || off.series.contains(one.series.as_str())
                        || !wanted.whole.contains(&one.series)
                }
            };
            if !there {
                entries.entry(path).or_insert((name, one));
            }
        }
        lines.extend(entries.values().map(|(name, _)| Line::Listed((*name).clone())));
        let entries: Vec<Entry<'_>> = entries
            .into_iter()
            .filter(|(path, _)| !before.contains(path))
            .map(|(path, (_, of))| Entry { path, of })
            .collect();
        let now: BTreeSet<&Path> = before
            .iter()
            .map(PathBuf::as_path)
            .chain(entries.iter().map(|one| &*one.path))
            .collect();
        let is_named = |one: &&&Done| {
            [file_of(one), folder_of(one)].iter().any(|place| now.contains(&**place))
        };
        let not_listed = asked.len() - asked.iter().filter(is_named).count();
        if new || !entries.is_empty() || taken_out > 0 {
            list.add(&entries);
            list.write(&file, &self.folder.join(UNFINISHED).join(MANIFEST))?;
            // What the journal calls listed must not outlive the list that has it.
            sync(&self.folder)?;
        }
        if !lines.is_empty() {
            self.tell(lines)?;
        }
        Ok(Listed { off_list, taken_out, not_listed })
    }
}
