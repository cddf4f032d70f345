//! What there is: studies, their series, their instances.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::pattern::matches;
use super::{Pull, PullError, Request, Wanted};
use crate::archive::{Found, MOST_ANSWERS, Query, Series, Study};
use crate::fault::Fault;

const QUESTIONS: [Request; 3] = [Request::Studies, Request::Series, Request::Instances];

impl Pull<'_> {
    /// Asks for all that is there. Once the way has failed too often, the rest of the questions is
    /// only counted; what was found until then is fetched.
    pub(super) fn plan(&mut self) -> Result<Vec<Wanted>, PullError> {
        let mut wanted = Vec::new();
        let mut known = BTreeSet::new();
        for study in self.studies()? {
            if self.has_given_up(&QUESTIONS) {
                self.report.not_asked += 1;
                continue;
            }
            let answer = self.archive.series(&study);
            let Some(all) = self.answered(Request::Series, [&study, ""], answer)? else { continue };
            for series in all.rows {
                if !self.fits(&series) {
                    continue;
                }
                let name = self.names.series(&series.uid);
                if self.has_given_up(&QUESTIONS) {
                    self.report.not_asked += 1;
                    continue;
                }
                let answer = self.archive.instances(&study, &series.uid);
                let of = [study.as_str(), &series.uid];
                let Some(instances) = self.answered(Request::Instances, of, answer)? else {
                    continue;
                };
                if instances.nameless == 0 {
                    self.whole.insert(name);
                }
                let (study, series) = (Rc::from(study.as_str()), Rc::from(series.uid.as_str()));
                for instance in instances.rows {
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
                self.progress.found(wanted.len());
            }
        }
        Ok(wanted)
    }

    /// What an answer brings; what is wrong with it is reported.
    fn answered<T>(
        &mut self,
        request: Request,
        [study, series]: [&str; 2],
        answer: Result<Found<T>, Fault>,
    ) -> Result<Option<Found<T>>, PullError> {
        match self.heard(request, answer)? {
            Ok(found) => {
                if found.nameless > 0 {
                    self.fail(study, series, "", &Fault::Nameless(found.nameless));
                }
                Ok(Some(found))
            }
            Err(fault) => {
                self.fail(study, series, "", &fault);
                Ok(None)
            }
        }
    }

    fn fits(&self, series: &Series) -> bool {
        let modality = series.modality.as_deref().unwrap_or_default();
        let modalities = &self.job.modalities;
        (modalities.is_empty() || modalities.iter().any(|one| one == modality))
            && self.job.description.as_deref().is_none_or(|pattern| {
                matches(pattern, series.description.as_deref().unwrap_or_default())
            })
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
        let mut first = true;
        for patient in &patients {
            for modality in &modalities {
                if self.has_given_up(&QUESTIONS) {
                    self.report.not_asked += 1;
                    continue;
                }
                let query = Query {
                    patient: patient.as_deref(),
                    dates: dates.map(|dates| dates.text.as_str()),
                    modality: modality.as_deref(),
                };
                let answer = match self.archive.studies(query) {
                    // Nothing has ever come from there.
                    Err(fault) if first => return Err(PullError::Archive(fault)),
                    answer => answer,
                };
                first = false;
                let Some(studies) = self.answered(Request::Studies, [""; 2], answer)? else {
                    continue;
                };
                // The archive may heed less than it was asked.
                let fits = |study: &Study| {
                    let day = study.date.as_deref();
                    let asked = patient.as_ref().zip(study.patient.as_ref());
                    asked.is_none_or(|(asked, found)| asked == found)
                        && dates.zip(day).is_none_or(|(dates, day)| dates.contain(day))
                };
                found.extend(studies.rows.into_iter().filter(fits).map(|study| study.uid));
                if found.len() > MOST_ANSWERS {
                    return Err(PullError::Archive(Fault::TooLarge("the archive's list")));
                }
            }
        }
        Ok(found)
    }
}
