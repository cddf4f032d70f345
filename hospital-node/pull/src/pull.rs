//! The whole pull: what is there, what lacks, what came of it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::rc::Rc;

use serde::Serialize;

use crate::archive::{Archive, MOST_ANSWERS, Query};
use crate::fault::Fault;
use crate::job::Job;
use crate::names::Names;
use crate::sieve::{Asked, Form, MOST, Rules, Sieved, sieve};
use crate::store::{Done, Holdings, Store, StoreError};

/// Failures of the way, one after the other, after which nothing more is asked for.
const IN_A_ROW: usize = 5;

/// What a person sees meanwhile.
pub trait Progress {
    /// So many instances were found so far.
    fn found(&self, count: usize);
    /// So many of so many are done with.
    fn done(&self, count: usize, all: usize);
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
    /// Instances that were not asked for any more, after the way had failed too often.
    pub not_tried: usize,
    /// What the folder holds now.
    pub holds: Holdings,
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

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive does not even answer the first question.
    #[error("{0}")]
    Archive(Fault),
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
    report: Report,
}

/// Fetches all that the job asks for and the folder lacks.
///
/// # Errors
/// When the folder cannot be written, or the archive does not answer at all. What fails after that
/// is part of the report.
pub fn pull(
    job: &Job,
    names: &Names,
    archive: &mut dyn Archive,
    store: &mut Store,
    progress: &dyn Progress,
) -> Result<Report, PullError> {
    let mut pull = Pull { job, names, archive, store, report: Report::default() };
    let wanted = pull.plan(progress)?;
    pull.report.found = wanted.len();
    let lacking: Vec<Wanted> = wanted
        .into_iter()
        .filter(|wanted| !pull.store.has(&names.instance(&wanted.instance)))
        .collect();
    pull.report.already = pull.report.found - lacking.len();
    pull.fetch_all(lacking, progress)?;
    pull.report.holds = pull.store.holdings();
    Ok(pull.report)
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

    /// Asks what there is: studies, their series, their instances.
    fn plan(&mut self, progress: &dyn Progress) -> Result<Vec<Wanted>, PullError> {
        let mut wanted = Vec::new();
        let mut known = BTreeSet::new();
        for study in self.studies()? {
            let all = match self.archive.series(&study) {
                Ok(all) => all,
                Err(fault) if fault.is_final() => return Err(PullError::Archive(fault)),
                Err(fault) => {
                    self.fail(&study, "", "", &fault);
                    continue;
                }
            };
            for series in all {
                let modality = series.modality.as_deref().unwrap_or_default();
                let modalities = &self.job.modalities;
                let fits = (modalities.is_empty() || modalities.iter().any(|one| one == modality))
                    && self.job.description.as_deref().is_none_or(|pattern| {
                        matches(pattern, series.description.as_deref().unwrap_or_default())
                    });
                if !fits {
                    continue;
                }
                let instances = match self.archive.instances(&study, &series.uid) {
                    Ok(instances) => instances,
                    Err(fault) if fault.is_final() => return Err(PullError::Archive(fault)),
                    Err(fault) => {
                        self.fail(&study, &series.uid, "", &fault);
                        continue;
                    }
                };
                let (study, series) = (Rc::from(study.as_str()), Rc::from(series.uid.as_str()));
                for instance in instances {
                    if known.insert(self.names.instance(&instance.uid)) {
                        wanted.push(Wanted {
                            study: Rc::clone(&study),
                            series: Rc::clone(&series),
                            instance: instance.uid,
                            class: instance.class.map(Rc::from),
                        });
                    }
                }
                if wanted.len() > MOST_ANSWERS {
                    return Err(PullError::Archive(Fault::TooLarge("the archive's list")));
                }
                progress.found(wanted.len());
            }
        }
        Ok(wanted)
    }

    /// The studies that are asked for, each once.
    fn studies(&mut self) -> Result<BTreeSet<String>, PullError> {
        let one = |text: &str| Some(text.to_owned());
        let patients: Vec<Option<String>> = match &self.job.patients {
            Some(patients) => patients.ids().map(one).collect(),
            None => vec![None],
        };
        let modalities: Vec<Option<String>> = match self.job.modalities.as_slice() {
            [] => vec![None],
            several => several.iter().map(|code| one(code)).collect(),
        };
        let dates = self.job.dates.as_ref();
        let mut found = BTreeSet::new();
        let mut answered = false;
        for patient in &patients {
            for modality in &modalities {
                let query = Query {
                    patient: patient.as_deref(),
                    dates: dates.map(|dates| dates.text.as_str()),
                    modality: modality.as_deref(),
                };
                match self.archive.studies(query) {
                    Ok(studies) => {
                        answered = true;
                        // The archive may heed less than it was asked.
                        let fits = studies.into_iter().filter(|study| {
                            let day = study.date.as_deref();
                            let asked = patient.as_ref().zip(study.patient.as_ref());
                            asked.is_none_or(|(asked, found)| asked == found)
                                && dates.zip(day).is_none_or(|(dates, day)| dates.contain(day))
                        });
                        found.extend(fits.map(|study| study.uid));
                    }
                    Err(fault) if fault.is_final() || !answered => {
                        return Err(PullError::Archive(fault));
                    }
                    Err(fault) => self.fail("", "", "", &fault),
                }
            }
        }
        Ok(found)
    }

    fn fetch_all(
        &mut self,
        lacking: Vec<Wanted>,
        progress: &dyn Progress,
    ) -> Result<(), PullError> {
        let all = lacking.len();
        let (mut again, mut in_a_row, mut done) = (Vec::<(Wanted, Fault)>::new(), 0, 0);
        // What failed is asked for once more, when the rest is done: an archive may have had a bad
        // moment.
        for (last, mut round) in [(false, lacking), (true, Vec::new())] {
            if last {
                if in_a_row >= IN_A_ROW {
                    break;
                }
                round = std::mem::take(&mut again).into_iter().map(|(wanted, _)| wanted).collect();
            }
            for wanted in round {
                if in_a_row >= IN_A_ROW {
                    self.report.not_tried += 1;
                    continue;
                }
                let Err(fault) = self.fetch(&wanted)? else {
                    in_a_row = 0;
                    done += 1;
                    progress.done(done, all);
                    continue;
                };
                if fault.is_final() {
                    return Err(PullError::Archive(fault));
                }
                in_a_row = if fault.is_of_the_way() { in_a_row + 1 } else { 0 };
                if last || in_a_row >= IN_A_ROW {
                    self.fail(&wanted.study, &wanted.series, &wanted.instance, &fault);
                } else {
                    again.push((wanted, fault));
                }
            }
        }
        // Those that there was no second try for.
        for (wanted, fault) in again {
            self.fail(&wanted.study, &wanted.series, &wanted.instance, &fault);
        }
        Ok(())
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
        let taken = match (came, taken) {
            (Ok(()), Some(taken)) => taken,
            (Ok(()), None) => {
                self.store.discard(draft);
                return Ok(Err(Fault::Missing));
            }
            (Err(Fault::NotAnImage), _) => {
                self.store.discard(draft);
                self.report.not_images += 1;
                self.store.pass_over(self.done(name, wanted, "", "", ""))?;
                return Ok(Ok(()));
            }
            (Err(fault), _) => {
                self.store.discard(draft);
                return Ok(Err(fault));
            }
        };
        let own = patients.map_or("", |patients| patients.label(&taken.patient_id));
        let label = if own.is_empty() { self.job.label.as_str() } else { own };
        let done = self.done(name, wanted, &taken.patient, &taken.modality, label);
        self.store.keep(draft, done)?;
        self.report.fetched += 1;
        Ok(Ok(()))
    }

    fn done(
        &self,
        name: String,
        wanted: &Wanted,
        patient: &str,
        modality: &str,
        label: &str,
    ) -> Done {
        Done {
            instance: name,
            series: self.names.series(&wanted.series),
            study: self.names.study(&wanted.study),
            patient: patient.to_owned(),
            modality: modality.to_owned(),
            label: label.to_owned(),
            bytes: None,
        }
    }
}

/// Whether a text fits a pattern with `*` and `?`, in whatever case.
fn matches(pattern: &str, text: &str) -> bool {
    let [pattern, text] =
        [pattern, text].map(|text| text.to_lowercase().chars().collect::<Vec<char>>());
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and where the text was then.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            Some(_) | None => match &mut star {
                None => return false,
                Some((at, from)) => {
                    *from += 1;
                    (p, t) = (*at + 1, *from);
                }
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_the_standard_says() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("", "", true),
            ("", "x", false),
            ("*thorax*", "CT Thorax nativ", true),
            ("*thorax", "CT Thorax nativ", false),
            ("t?orax", "THORAX", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("**a", "ba", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
