//! What makes an administrator look twice: burned-in text, images of several kinds or sizes, patients
//! who are in two classes. Nothing of it makes a file unusable.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Contents, Image, PatientKey};

/// Sizes and kinds that are told apart; of more it is enough to know that there are more.
const TOLD_APART: usize = 64;

/// What was noticed about the usable images of a source.
#[derive(Clone, Debug, Default)]
pub struct About {
    burned_in: usize,
    shapes: BTreeMap<Vec<usize>, usize>,
    modalities: BTreeMap<&'static str, usize>,
}

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// A stable word for scripts.
    pub warning: &'static str,
    /// The same for people.
    pub detail: String,
}

impl About {
    pub(super) fn note(&mut self, image: &Image) {
        self.burned_in += usize::from(image.is_burned_in());
        let shape = image.shape();
        if self.shapes.len() < TOLD_APART || self.shapes.contains_key(&shape) {
            *self.shapes.entry(shape).or_default() += 1;
        }
        *self.modalities.entry(image.modality()).or_default() += 1;
    }
}

/// Everything to look at in a source.
#[must_use]
pub fn warnings(contents: &Contents) -> Vec<Warning> {
    let About { burned_in, shapes, modalities } = &contents.about;
    let mut warnings = Vec::new();
    let mut warn = |warning, detail| warnings.push(Warning { warning, detail });
    if *burned_in > 0 {
        warn(
            "burned_in_annotation",
            format!("{burned_in} images say that text is burned into their pixels"),
        );
    }
    if modalities.len() > 1 {
        let counts: Vec<String> =
            modalities.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        warn("several_modalities", format!("images of several kinds: {}", counts.join(", ")));
    }
    if shapes.len() > 1 {
        let most = shapes.iter().max_by_key(|(_, count)| **count);
        let (shape, count) = most.map_or((String::new(), 0), |(shape, count)| {
            let sides: Vec<String> = shape.iter().map(ToString::to_string).collect();
            (sides.join(" x "), *count)
        });
        let sizes = shapes.len();
        let more = if sizes == TOLD_APART { " or more" } else { "" };
        warn(
            "several_sizes",
            format!("{sizes}{more} sizes; the commonest, {shape}, {count} times"),
        );
    }
    let mut labels: BTreeMap<PatientKey, BTreeSet<&str>> = BTreeMap::new();
    for record in &contents.records {
        labels.entry(record.patient).or_default().insert(&record.label);
    }
    let over = labels.values().filter(|labels| labels.len() > 1).count();
    if over > 0 {
        warn("patients_over_labels", format!("{over} patients have images of several labels"));
    }
    warnings
}
