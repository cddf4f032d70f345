//! What of the folder is in the list of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::journal::Line;
use super::manifest::{Entry, List};
use super::{Done, MANIFEST, Store, StoreError, UNFINISHED, file_of, folder_of};
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

impl Store {
    /// Brings the list up to date: adds what was never in it, takes out whose patient is not asked
    /// for; all else stays as it is. Gives the count of images that are here and not asked for.
    ///
    /// # Errors
    /// The disk, or a list that is no CSV with a column `path` any more.
    pub fn list(&mut self, wanted: &Listing<'_>) -> Result<usize, StoreError> {
        let file = self.manifest();
        let found = List::read(&file)?;
        // Without a list all is new.
        let (new, mut list) = (found.is_none(), found.unwrap_or_else(List::new));
        let (asked, mut off): (Vec<&Done>, Vec<&Done>) =
            self.kept().partition(|one| (wanted.asked)(one));
        let off_list = off.len();
        // A file that was removed already has a row all the same.
        off.extend(self.gone.values().filter(|one| !(wanted.asked)(one)));
        let is_listed = |name: &String| !new && self.state.listed.contains(name);
        let mut lines = Vec::new();

        let mut gone = BTreeSet::new();
        for one in &off {
            for (name, place) in [(&one.instance, file_of(one)), (&one.series, folder_of(one))] {
                if self.state.listed.contains(name) && gone.insert(place) {
                    lines.push(Line::Unlisted(name.clone()));
                }
            }
        }
        let before = list.places();
        if !gone.is_disjoint(&before) {
            list.drop(&gone);
        }

        let was_listed: BTreeSet<&str> = asked
            .iter()
            .filter(|one| is_listed(&one.instance))
            .map(|one| one.series.as_str())
            .collect();
        let mut entries: BTreeMap<PathBuf, (&String, &Done)> = BTreeMap::new();
        for one in asked {
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
        if new || !entries.is_empty() || !gone.is_disjoint(&before) {
            list.add(&entries);
            list.write(&file, &self.folder.join(UNFINISHED).join(MANIFEST))?;
        }
        if !lines.is_empty() {
            self.tell(lines)?;
        }
        Ok(off_list)
    }
}
