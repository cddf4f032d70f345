//! The whole pull: what is there, what lacks, what came of it.

mod pattern;
mod plan;

use std::collections::{BTreeSet, VecDeque};
use std::io::Write as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;

use crate::archive::Archive;
use crate::fault::Fault;
use crate::job::{Job, Rows};
use crate::names::Names;
use crate::sieve::{Asked, Form, MOST, Rules, Sieved, sieve};
use crate::store::{Done, Holdings, Listed, Listing, Store, StoreError};

/// Failures of the way, one after the other, after which nothing more is asked for. Between them is
/// rested for 1, 2, 4 and 8 seconds: an archive may be starting anew.
const IN_A_ROW: usize = 5;

/// What a person sees meanwhile.
pub trait Progress {
    /// So many instances were found so far.
    fn found(&self, count: usize);
    /// So many of so many are done with.
    fn done(&self, count: usize, all: usize);
    /// The archive has a bad moment; returns when this time has passed.
    fn rest(&self, time: Duration);
}

/// What came of a pull.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Instances that the archive lists.
    pub found: usize,
    /// Images that came.
    pub fetched: usize,
    /// Instances that were there already.
    pub already: usize,
    /// Instances without pixels, which are not kept.
    pub not_images: usize,
    /// What did not come.
    pub failed: Vec<Failed>,
    /// Questions that were not asked any more, after the way had failed too often: what they would
    /// have found is in no other number.
    pub not_asked: usize,
    /// Instances that were not asked for any more.
    pub not_tried: usize,
    /// Images in the folder whose patients are not on the list of patients any more. They are in no
    /// row of the manifest; their files are a person's to remove.
    pub off_list: usize,
    /// Rows that were taken out of the manifest now, because they were of such patients.
    pub taken_out: usize,
    /// Images in the folder that are asked for and in no row of the manifest, nor are their series: a
    /// person took them out, an older copy of the list was put in its place, or not all of a series is
    /// there.
    pub not_listed: usize,
    /// What the folder holds now.
    pub holds: Holdings,
    /// The list of it.
    pub manifest: PathBuf,
}

impl Report {
    /// Whether all that was asked for is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.failed.is_empty() && self.not_asked == 0 && self.not_tried == 0
    }
}

/// One instance, or a whole study or series, that did not come.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    /// The study's pseudonym; empty for a question about studies.
    pub study: String,
    /// The series'; empty for a question about series.
    pub series: String,
    /// The instance's; empty for a question about instances.
    pub instance: String,
    /// A stable word for scripts.
    pub reason: &'static str,
    /// The same for people.
    pub detail: String,
}

/// Why a pull did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive does not even answer the first question, or does not let us in any more.
    #[error("{0}")]
    Archive(Fault),
}

/// A pull that did not come to its end.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Stopped {
    /// Why.
    pub error: PullError,
    /// What had come of it until then.
    pub report: Report,
}

/// What is asked of an archive.
#[derive(Clone, Copy)]
enum Request {
    Studies,
    Series,
    Instances,
    Image,
}

/// One instance that is asked for.
struct Wanted {
    study: Rc<str>,
    series: Rc<str>,
    instance: String,
    class: Option<Rc<str>>,
}

struct Pull<'a> {
    job: &'a Job,
    names: &'a Names,
    archive: &'a mut dyn Archive,
    store: &'a mut Store,
    progress: &'a dyn Progress,
    report: Report,
    /// For each kind of request, failures of the way since one was last answered: an archive that
    /// answers some and not the others is not waited for either.
    in_a_row: [usize; 4],
    /// Series of which everything is here once all that was planned has come, by their pseudonyms.
    whole: BTreeSet<String>,
}

/// Fetches all that the job asks for and the folder lacks, and lists it.
///
/// # Errors
/// When the folder cannot be written, the archive does not answer at all, or it does not let us in
/// any more. What came before that is kept and listed; what fails otherwise is part of the report.
pub fn pull(
    job: &Job,
    names: &Names,
    archive: &mut dyn Archive,
    store: &mut Store,
    progress: &dyn Progress,
) -> Result<Report, Box<Stopped>> {
    let (report, whole) = (Report::default(), BTreeSet::new());
    let mut pull = Pull { job, names, archive, store, progress, report, in_a_row: [0; 4], whole };
    let came = match pull.plan() {
        Ok(wanted) => pull.fetch_all(wanted),
        Err(error) => {
            // What lacks of these series was not asked for.
            pull.whole.clear();
            Err(error)
        }
    };
    // What came before something went wrong is listed too.
    let listed = pull.list();
    let report = pull.report;
    match came.and(listed) {
        Ok(()) => Ok(report),
        Err(error) => Err(Box::new(Stopped { error, report })),
    }
}

impl Pull<'_> {
    fn fail(&mut self, study: &str, series: &str, instance: &str, fault: &Fault) {
        let named = |uid: &str, name: String| if uid.is_empty() { String::new() } else { name };
        self.report.failed.push(Failed {
            study: named(study, self.names.study(study)),
            series: named(series, self.names.series(series)),
            instance: named(instance, self.names.instance(instance)),
            reason: fault.code(),
            detail: fault.to_string(),
        });
    }

    /// Takes note of how the archive answered; the outer error ends the pull.
    fn heard<T>(
        &mut self,
        request: Request,
        answer: Result<T, Fault>,
    ) -> Result<Result<T, Fault>, PullError> {
        match answer {
            Err(fault) if fault.is_final() => Err(PullError::Archive(fault)),
            answer => {
                let of_the_way = answer.as_ref().is_err_and(Fault::is_of_the_way);
                let count = &mut self.in_a_row[request as usize];
                *count = if of_the_way { *count + 1 } else { 0 };
                if let 1..IN_A_ROW = *count {
                    self.progress.rest(Duration::from_secs(1 << (*count - 1)));
                }
                Ok(answer)
            }
        }
    }

    /// Whether there is no point in asking for anything else of these kinds.
    fn has_given_up(&self, on: &[Request]) -> bool {
        on.iter().any(|request| self.in_a_row[*request as usize] >= IN_A_ROW)
    }

    fn fetch_all(&mut self, wanted: Vec<Wanted>) -> Result<(), PullError> {
        self.report.found = wanted.len();
        let here = |one: &Wanted| self.store.has(&self.names.instance(&one.instance));
        let mut left: VecDeque<Wanted> =
            wanted.into_iter().filter(|one| self.job.refetch || !here(one)).collect();
        let all = left.len();
        self.report.already = self.report.found - all;
        let (mut again, mut done) = (Vec::<(Wanted, Fault)>::new(), 0);
        let mut ended = Ok(());
        // What failed is asked for once more, when the rest is done: an archive may have had a bad
        // moment.
        for last in [false, true] {
            if last && !self.has_given_up(&[Request::Image]) && ended.is_ok() {
                left.extend(std::mem::take(&mut again).into_iter().map(|(wanted, _)| wanted));
            }
            while let Some(wanted) = left.pop_front() {
                if self.has_given_up(&[Request::Image]) || ended.is_err() {
                    self.whole.remove(&self.names.series(&wanted.series));
                    self.report.not_tried += 1;
                    continue;
                }
                let fetched = self.fetch(&wanted).and_then(|came| self.heard(Request::Image, came));
                match fetched {
                    Ok(Ok(())) => {
                        done += 1;
                        self.progress.done(done, all);
                    }
                    Ok(Err(fault)) if last || self.has_given_up(&[Request::Image]) => {
                        self.lack(&wanted, &fault)
                    }
                    Ok(Err(fault)) => again.push((wanted, fault)),
                    Err(error) => {
                        ended = Err(error);
                        left.push_front(wanted);
                    }
                }
            }
        }
        // Those that there was no second try for.
        for (wanted, fault) in again {
            self.lack(&wanted, &fault);
        }
        ended
    }

    fn lack(&mut self, wanted: &Wanted, fault: &Fault) {
        let Wanted { study, series, instance, .. } = wanted;
        self.whole.remove(&self.names.series(series));
        self.fail(study, series, instance, fault);
    }

    /// One instance; the inner error is the archive's.
    fn fetch(&mut self, wanted: &Wanted) -> Result<Result<(), Fault>, PullError> {
        let Wanted { study, series, instance, class } = wanted;
        let name = self.names.instance(instance);
        let mut draft = self.store.draft(&name)?;
        let patients = self.job.patients.as_ref();
        let rules = Rules {
            keep: &self.job.keep,
            names: self.names,
            asked: Asked { study, series, instance },
            patient: &|id| patients.is_none_or(|patients| patients.contain(id)),
            most: MOST,
        };
        let mut taken: Option<Sieved> = None;
        let came =
            self.archive.fetch(rules.asked, class.as_deref(), &mut |from, form: Form<'_>| {
                taken = Some(sieve(from, form, draft.to(), &rules)?);
                Ok(())
            });
        let came = came.and_then(|()| draft.to().flush().map_err(|error| Fault::writing(&error)));
        let taken = match came.and_then(|()| taken.ok_or(Fault::Missing)) {
            Ok(taken) => taken,
            Err(fault) => {
                self.store.discard(draft);
                let Fault::NotAnImage { standard } = fault else { return Ok(Err(fault)) };
                self.report.not_images += 1;
                // What only its maker knows is looked at again the next time.
                if standard {
                    self.store.pass_over(self.done(name, wanted, None, ""))?;
                }
                return Ok(Ok(()));
            }
        };
        let of = self.store.patient_of(&self.names.series(series));
        if self.job.rows == Rows::Series && of.is_some_and(|of| of != taken.patient) {
            // One row, and so one patient, for all of it.
            self.store.discard(draft);
            return Ok(Err(Fault::Another("patient of the series")));
        }
        let own = patients.map_or("", |patients| patients.label(&taken.patient_id));
        let label = if own.is_empty() { self.job.label.as_str() } else { own };
        let done = self.done(name, wanted, Some(&taken), label);
        self.store.keep(draft, done)?;
        self.report.fetched += 1;
        Ok(Ok(()))
    }

    fn done(&self, name: String, wanted: &Wanted, taken: Option<&Sieved>, label: &str) -> Done {
        Done {
            instance: name,
            series: self.names.series(&wanted.series),
            study: self.names.study(&wanted.study),
            patient: taken.map(|taken| taken.patient.clone()).unwrap_or_default(),
            person: taken.map(|taken| self.names.person(&taken.patient_id)).unwrap_or_default(),
            modality: taken.map(|taken| taken.modality.clone()).unwrap_or_default(),
            label: label.to_owned(),
            bytes: None,
        }
    }

    /// Lists what is here, and says how much that is.
    fn list(&mut self) -> Result<(), PullError> {
        let people: Option<BTreeSet<String>> = self
            .job
            .patients
            .as_ref()
            .map(|patients| patients.ids().map(|id| self.names.person(id)).collect());
        let listing = Listing {
            rows: self.job.rows,
            whole: &self.whole,
            asked: &|done| people.as_ref().is_none_or(|people| people.contains(&done.person)),
        };
        let listed = self.store.list(&listing);
        self.report.holds = self.store.holdings();
        self.report.manifest = self.store.manifest();
        let Listed { off_list, taken_out, not_listed } = listed?;
        self.report.off_list = off_list;
        self.report.taken_out = taken_out;
        self.report.not_listed = not_listed;
        Ok(())
    }
}
