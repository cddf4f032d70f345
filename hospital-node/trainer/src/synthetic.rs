//! Hospitals' worth of made-up chest radiographs, to try the whole with: genuine DICOM files with a
//! manifest, of patients who do not exist.
//!
//! The task is to tell images with a lesion (a small opacity with a soft edge, anywhere in the
//! lungs, from obvious to nearly invisible) from those without. Both kinds show other opacities,
//! rings, wires and calcified points, and brightness differs from image to image, so pixels by
//! themselves say little: a linear model stays far behind a convolutional one. Hospitals differ in
//! size, in how common the lesion is, in exposure, contrast and noise, and one of them stores its
//! images inverted (MONOCHROME1).

mod canvas;
mod file;
mod radiograph;

use std::path::Path;

use rayon::prelude::*;

use crate::dataset::Part;
use crate::random::Random;
use file::Identity;
use radiograph::{Patient, Technique};

/// The two classes, by number.
pub const CLASSES: [&str; 2] = ["normal", "lesion"];
/// The name of the list of images beside them.
pub const MANIFEST: &str = "manifest.csv";

/// What is to be generated.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// How many hospitals there are in all.
    pub sites: u32,
    /// Which of them this is, from 1.
    pub site: u32,
    /// Patients of an average hospital.
    pub patients: u32,
    /// Decides everything.
    pub seed: u64,
    /// Pixels to a side.
    pub size: u16,
}

/// What was generated.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Generated {
    /// Patients of this hospital.
    pub patients: usize,
    /// Images of them.
    pub images: usize,
    /// Images with a lesion.
    pub lesions: usize,
}

/// Generating did not work.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A number outside its range.
    #[error("{name}: expected {low} to {high}, found {found}")]
    Range {
        /// The argument.
        name: &'static str,
        /// Its least value.
        low: u32,
        /// Its greatest value.
        high: u32,
        /// What was asked for.
        found: u32,
    },
    /// A file that cannot be written.
    #[error("cannot write {what}")]
    Write {
        /// Which.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// Writes one hospital's images and manifest into a folder, which is made if need be.
///
/// # Errors
/// For numbers out of range, and when files cannot be written.
pub fn generate(request: Request, out: &Path) -> Result<Generated, GenerateError> {
    let Request { sites, site, patients, size, .. } = request;
    within("sites", sites, 1, 1000)?;
    within("site", site, 1, sites)?;
    within("patients", patients, 4, 100_000)?;
    within("size", size.into(), 32, 1024)?;
    std::fs::create_dir_all(out)
        .map_err(|source| GenerateError::Write { what: "the folder", source })?;
    let hospital = Hospital::new(request);
    let made: Vec<Vec<Row>> = (0..hospital.patients)
        .into_par_iter()
        .map(|number| hospital.patient(number, out))
        .collect::<Result<_, _>>()?;
    let mut manifest = String::from("path,patient_id,split,label\n");
    let (mut images, mut lesions) = (0, 0);
    for Row { file, patient, part, lesion } in made.iter().flatten() {
        let label = CLASSES[usize::from(*lesion)];
        manifest.push_str(&format!("{file},{patient},{},{label}\n", part.name()));
        images += 1;
        lesions += usize::from(*lesion);
    }
    std::fs::write(out.join(MANIFEST), manifest)
        .map_err(|source| GenerateError::Write { what: "the manifest", source })?;
    Ok(Generated { patients: made.len(), images, lesions })
}

fn within(name: &'static str, found: u32, low: u32, high: u32) -> Result<(), GenerateError> {
    if (low..=high).contains(&found) {
        Ok(())
    } else {
        Err(GenerateError::Range { name, low, high, found })
    }
}

/// One line of the manifest.
struct Row {
    file: String,
    patient: String,
    part: Part,
    lesion: bool,
}

/// What makes a hospital unlike the others.
struct Hospital {
    request: Request,
    patients: u32,
    lesion_share: f64,
    technique: Technique,
}

impl Hospital {
    fn new(request: Request) -> Self {
        // Five temperaments in turn; sizes average out to what was asked for.
        const SIZES: [u32; 5] = [100, 130, 70, 115, 85];
        const SHARES: [f64; 5] = [0.50, 0.32, 0.62, 0.42, 0.26];
        const NOISE: [f64; 5] = [0.020, 0.030, 0.024, 0.016, 0.034];
        let kind = (request.site as usize - 1) % 5;
        let mut random = Random::new(
            "consilium/synthetic-hospital/1",
            &[&request.seed.to_le_bytes(), &request.site.to_le_bytes()],
        );
        let technique = Technique {
            exposure: random.within(0.82, 1.12),
            contrast: random.within(0.8, 1.25),
            noise: NOISE[kind],
            inverted: kind == 2 || request.sites < 3 && request.site == 2,
            digital: request.site.is_multiple_of(2),
            slope: [1.0, 0.5, 1.0, 2.0, 1.0][kind],
        };
        Self {
            request,
            patients: (request.patients * SIZES[kind] / 100).max(4),
            lesion_share: SHARES[kind],
            technique,
        }
    }

    fn patient(&self, number: u32, out: &Path) -> Result<Vec<Row>, GenerateError> {
        let Request { seed, site, size, .. } = self.request;
        let inputs: [&[u8]; 3] = [&seed.to_le_bytes(), &site.to_le_bytes(), &number.to_le_bytes()];
        let mut random = Random::new("consilium/synthetic-patient/1", &inputs);
        let lesion = random.chance(self.lesion_share);
        // By number, so that small hospitals have images in every part.
        let part = match number % 20 {
            0..13 => Part::Train,
            13..16 => Part::Validation,
            _ => Part::Test,
        };
        let patient = Patient::draw(lesion, &mut random);
        let images = 1 + random.below(3);
        let name = format!("SYN-{site}-{:04}", number + 1);
        let study = file::uid(&mut random);
        let mut rows = Vec::with_capacity(images);
        for image in 1..=images {
            let pixels = patient.image(size, &self.technique, &mut random);
            let file = format!("p{:04}-{image}.dcm", number + 1);
            let identity = Identity {
                patient: &name,
                study: &study,
                series: file::uid(&mut random),
                instance: file::uid(&mut random),
                number: image,
            };
            file::write(&out.join(&file), size, &pixels, &self.technique, &identity)
                .map_err(|source| GenerateError::Write { what: "an image", source })?;
            rows.push(Row { file, patient: name.clone(), part, lesion });
        }
        Ok(rows)
    }
}
