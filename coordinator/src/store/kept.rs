//! Rounds that are kept to be added up again: what the rows say of them, and the folder that their
//! updates lie in.
//!
//! Every released round waits here until the next sum of its study is released, or the study ends:
//! then it is drawn or not (see [`transparency::recompute`]). The row changes in the transaction of
//! the closing that decides it, and so does the log; the files follow. What a crash leaves between
//! the two is put right at the next start.
//!
//! ```text
//! kept/STUDY/SLOT/record.json     which updates are in the sum, and which masks were taken out
//! kept/STUDY/SLOT/SITE.update     an update as it arrived
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aggregation::ids::{Digest, RoundId, SlotId, StudyId};
use aggregation::units::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};
use transparency::recompute::{MAX_RECORD_BYTES, RECORD, Record, update_file};

use super::studies::{round_of, slot_column};
use super::{Leaf, Store, StoreError, digest, leaf, millis, moment, number};

/// A released round whose updates are still there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeptRow {
    /// Its study.
    pub(crate) study: StudyId,
    /// Which attempt.
    pub(crate) slot: SlotId,
    /// Which round.
    pub(crate) round: RoundId,
    /// The digest of its sum.
    pub(crate) sum: Digest,
    /// The share of rounds that are kept, as its release says.
    pub(crate) share: f64,
    /// SHA-256 of its record.
    pub(crate) record: Digest,
    /// What record and updates take.
    pub(crate) bytes: u64,
    /// Whether it was drawn; otherwise that is still open.
    pub(crate) kept: bool,
    /// When it closed; of one that was drawn, when it was.
    pub(crate) closed: Timestamp,
}

/// What becomes of a round that was kept, or might have had to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was drawn: it stays, if there is room.
    Drawn,
    /// It was not drawn.
    NotDrawn,
    /// It goes, for this reason.
    Forgotten(&'static str),
}

/// What the closing of a round, or the end of a study, changes about kept rounds.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    /// The round that closes, if it was released.
    pub(crate) fresh: Option<KeptRow>,
    /// Earlier ones that are decided by it.
    pub(crate) settled: Vec<(KeptRow, Fate)>,
    /// Bytes that all kept rounds may take.
    pub(crate) space: u64,
}

impl Keeping {
    /// A study has ended: there is no next sum to draw its last round by, so that is kept. In the
    /// transaction of the end, or of the round that closes after it: at no size does the log say that
    /// a study is over and nothing of what became of its last round.
    pub(super) async fn last(
        tx: &mut Transaction<'_, Sqlite>,
        study: StudyId,
        space: u64,
    ) -> Result<Self, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM kept_rounds WHERE study = $1 AND kept = 0 ORDER BY slot")
                .bind(study.to_string())
                .fetch_all(&mut **tx)
                .await?;
        let settled = rows.iter().map(|row| Ok((KeptRow::read(row)?, Fate::Drawn)));
        Ok(Self { fresh: None, settled: settled.collect::<Result<_, StoreError>>()?, space })
    }

    /// Writes it, and the leaves.
    pub(super) async fn apply(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        for (row, fate) in &self.settled {
            let held: i64 = sqlx::query_scalar(
                "SELECT COALESCE(SUM(bytes), 0) FROM kept_rounds WHERE kept = 1",
            )
            .fetch_one(&mut **tx)
            .await?;
            let held: u64 = number(held, "the size of kept rounds")?;
            let fits = held.saturating_add(row.bytes) <= self.space;
            let told = match fate {
                Fate::Drawn if fits => Some(
                    row.leaf("round_kept")
                        .with("record", row.record.to_string())
                        .with("bytes", row.bytes),
                ),
                Fate::Drawn => Some(row.leaf("round_forgotten").with("reason", "size cap")),
                Fate::Forgotten(reason) => {
                    Some(row.leaf("round_forgotten").with("reason", *reason))
                }
                Fate::NotDrawn => None,
            };
            let order = if *fate == Fate::Drawn && fits {
                // An auditor has the whole retention from when the log says that there is something.
                sqlx::query(
                    "UPDATE kept_rounds SET kept = 1, closed_ms = $1
                     WHERE study = $2 AND slot = $3 AND kept = $4",
                )
                .bind(millis(now))
            } else {
                sqlx::query("DELETE FROM kept_rounds WHERE study = $1 AND slot = $2 AND kept = $3")
            };
            let done = order
                .bind(row.study.to_string())
                .bind(slot_column(row.slot))
                .bind(i64::from(row.kept))
                .execute(&mut **tx)
                .await?;
            // Of one that was decided meanwhile, by the end of its study or by another sweep, the log
            // has heard already.
            if done.rows_affected() == 1 {
                leaf::append(tx, now, told.as_slice()).await?;
            }
        }
        if let Some(row) = &self.fresh {
            sqlx::query(
                "INSERT INTO kept_rounds
                    (study, slot, round, sum, share, record, bytes, kept, closed_ms)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            )
            .bind(row.study.to_string())
            .bind(slot_column(row.slot))
            .bind(i64::from(row.round.get()))
            .bind(row.sum.to_string())
            .bind(row.share)
            .bind(row.record.to_string())
            .bind(i64::try_from(row.bytes).unwrap_or(i64::MAX))
            .bind(i64::from(row.kept))
            .bind(millis(row.closed))
            .execute(&mut **tx)
            .await?;
        }
        Ok(())
    }
}

impl KeptRow {
    fn leaf(&self, kind: &'static str) -> Leaf {
        Leaf::of(self.study, kind).with("round", self.round.get()).with("slot", self.slot.get())
    }

    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let kept: i64 = row.try_get("kept")?;
        Ok(Self {
            study: StudyId::new(digest(row.try_get("study")?, "study")?),
            slot: SlotId::new(number(row.try_get("slot")?, "slot")?),
            round: round_of(row.try_get("round")?)?,
            sum: digest(row.try_get("sum")?, "sum")?,
            share: row.try_get("share")?,
            record: digest(row.try_get("record")?, "record")?,
            bytes: number(row.try_get("bytes")?, "the size of a kept round")?,
            kept: kept != 0,
            closed: moment(row.try_get("closed_ms")?),
        })
    }
}

impl Store {
    /// Every released round whose updates are still there, of all studies or of one.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn kept_rounds(
        &self,
        study: Option<StudyId>,
    ) -> Result<Vec<KeptRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM kept_rounds ORDER BY study, slot")
            .fetch_all(&self.readers)
            .await?;
        let mut rows: Vec<_> = rows.iter().map(KeptRow::read).collect::<Result<_, _>>()?;
        rows.retain(|row| study.is_none_or(|study| row.study == study));
        Ok(rows)
    }

    /// The share of a study's rounds that are kept, as its first release said.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn share_of(&self, study: StudyId) -> Result<Option<f64>, StoreError> {
        let leaf: Option<String> = sqlx::query_scalar(
            "SELECT leaf FROM facts WHERE study = $1 AND kind = 'round_released' ORDER BY id LIMIT 1",
        )
        .bind(study.digest().to_string())
        .fetch_optional(&self.readers)
        .await?;
        let leaf: Option<serde_json::Value> =
            leaf.and_then(|leaf| serde_json::from_str(&leaf).ok());
        Ok(leaf.and_then(|leaf| leaf.get("recompute_share")?.as_f64()))
    }

    /// Settles rounds that no closing decides.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn settle_kept(
        &self,
        keeping: &Keeping,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        keeping.apply(&mut tx, now).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// The folder of kept rounds.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    folder: PathBuf,
    /// Where updates lie while their round is open.
    staged: PathBuf,
}

impl Shelf {
    /// That of a state folder.
    pub(super) fn new(state: &Path) -> Self {
        Self { folder: state.join("kept"), staged: state.join("blobs/staged") }
    }

    /// Where a round lies.
    pub(crate) fn place(&self, study: StudyId, slot: SlotId) -> PathBuf {
        self.folder.join(study.digest().to_string()).join(slot.get().to_string())
    }

    /// Writes a record; it is whole and durable, or not there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn put_record(
        &self,
        study: StudyId,
        slot: SlotId,
        bytes: Vec<u8>,
    ) -> Result<(), StoreError> {
        let (folder, place) = (self.folder.clone(), self.place(study, slot));
        blocking(move || {
            make_folders(&folder, &place, &mut |folder| File::open(folder)?.sync_all())?;
            let beside = place.join("record.tmp");
            let mut file = File::create(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, place.join(RECORD))?;
            File::open(&place)?.sync_all()
        })
        .await
    }

    /// Takes the updates of a round, as its record names them, out of the staged ones. Those that
    /// are here already stay.
    ///
    /// # Errors
    /// When the disk refuses, or the record is not the one of the row.
    pub(crate) async fn shelve(&self, row: &KeptRow) -> Result<(), StoreError> {
        let place = self.place(row.study, row.slot);
        let parts = [row.study.digest().to_string(), row.slot.get().to_string()];
        let staged = parts.iter().fold(self.staged.clone(), |path, part| path.join(part));
        let (wanted, damaged) = (row.record, || io::Error::from(io::ErrorKind::InvalidData));
        blocking(move || {
            let file = place.join(RECORD);
            if fs::metadata(&file)?.len() > MAX_RECORD_BYTES as u64 {
                return Err(damaged());
            }
            let bytes = fs::read(&file)?;
            if Digest::sha256(&bytes) != wanted {
                return Err(damaged());
            }
            let record = Record::parse(&bytes).map_err(|_| damaged())?;
            for (site, upload) in &record.uploads {
                let to = place.join(update_file(site));
                if !to.try_exists()? {
                    fs::rename(staged.join(format!("{site}.{}", upload.digest)), &to)?;
                    File::open(&to)?.sync_all()?;
                }
            }
            File::open(&place)?.sync_all()
        })
        .await
    }

    /// Forgets a round.
    pub(crate) async fn forget(&self, study: StudyId, slot: SlotId) {
        let place = self.place(study, slot);
        // Left behind it is seen again at the next start.
        let _ = blocking(move || fs::remove_dir_all(place)).await;
    }

    /// The rounds that have a folder.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) async fn list(&self) -> Result<Vec<(StudyId, SlotId)>, StoreError> {
        let folder = self.folder.clone();
        blocking(move || {
            let mut found = Vec::new();
            for study in names(&folder)? {
                let Ok(digest) = study.parse() else { continue };
                for slot in names(&folder.join(&study))? {
                    found.extend(
                        slot.parse().ok().map(|slot| (StudyId::new(digest), SlotId::new(slot))),
                    );
                }
            }
            Ok(found)
        })
        .await
    }
}

/// Makes the folder of a round, and waits until its name is durable, and the names of those above it:
/// one that a killed process has made may not be yet.
fn make_folders(
    root: &Path,
    place: &Path,
    sync: &mut dyn FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    let above = place.ancestors().skip(1);
    above.take_while(|folder| folder.starts_with(root)).try_for_each(&mut *sync)?;
    match root.parent() {
        Some(above) if !above.as_os_str().is_empty() => sync(above),
        Some(_) | None => sync(Path::new(".")),
    }
}

/// The names in a folder; none of one that is not there.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        }
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(fault) => Err(fault),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let disk = |fault: io::Error| StoreError::Disk(Box::new(fault));
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|fault| disk(io::Error::other(fault)))?
        .map_err(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_every_folder_down_to_a_round_is_durable_before_anything_lies_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let shelf = Shelf::new(folder.path());
        let study = StudyId::new(Digest::sha256(b"study"));
        let place = shelf.place(study, SlotId::new(7));
        // The second time as after a kill between making and waiting.
        for _ in 0..2 {
            let mut synced = Vec::new();
            let mut sync = |folder: &Path| {
                synced.push(folder.to_owned());
                Ok(())
            };
            make_folders(&shelf.folder, &place, &mut sync).expect("made");
            let kept = folder.path().join("kept");
            let wanted = [kept.join(study.to_string()), kept, folder.path().to_owned()];
            assert!(place.is_dir());
            assert_eq!(synced, wanted);
        }
    }

    /// An auditor could not have asked for it before: nobody knew that it would be drawn.
    #[tokio::test]
    async fn what_is_drawn_is_kept_once_and_for_its_time_from_then_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).await.expect("opened");
        let (digest, at) = (Digest::sha256(b"any"), Timestamp::from_millis);
        let fresh = KeptRow {
            study: StudyId::new(digest),
            slot: SlotId::new(7),
            round: round_of(6).expect("a round"),
            sum: digest,
            share: 1.0,
            record: digest,
            bytes: 9,
            kept: false,
            closed: at(1_000),
        };
        let fate = |fate| vec![(fresh.clone(), fate)];
        // The last two were read before the row was drawn.
        for (fresh, settled, now) in [
            (Some(fresh.clone()), Vec::new(), 1_000),
            (None, fate(Fate::Drawn), 5_000),
            (None, fate(Fate::Drawn), 6_000),
            (None, fate(Fate::NotDrawn), 7_000),
        ] {
            let keeping = Keeping { fresh, settled, space: 99 };
            store.settle_kept(&keeping, at(now)).await.expect("settled");
        }
        assert_eq!(store.leaves("round_kept").await, 1);
        let rows = store.kept_rounds(None).await.expect("read");
        assert_eq!(rows.len(), 1);
        assert!(rows[0].kept && rows[0].closed == at(5_000), "{rows:?}");
        store.close().await;
    }
}
