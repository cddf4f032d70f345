//! Writes an image as a DICOM file: explicit VR little endian, 12 bits in 16.

use std::io;
use std::path::Path;

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR, dicom_value};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

use super::radiograph::{FULL, Technique, WHITE};
use crate::random::Random;

/// Which patient, study, series and image this is.
pub(super) struct Identity<'a> {
    pub(super) patient: &'a str,
    pub(super) study: &'a str,
    pub(super) series: String,
    pub(super) instance: String,
    pub(super) number: usize,
}

/// A unique identifier under the arc for UUIDs (PS3.5 B.2).
pub(super) fn uid(random: &mut Random) -> String {
    let uuid = (u128::from(random.bits()) << 64) | u128::from(random.bits());
    format!("2.25.{uuid}")
}

/// Writes the file.
pub(super) fn write(
    path: &Path,
    size: u16,
    pixels: &[u16],
    technique: &Technique,
    identity: &Identity<'_>,
) -> io::Result<()> {
    let class = if technique.digital {
        uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION
    } else {
        uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE
    };
    let text =
        |tag: Tag, vr: VR, value: &str| DataElement::new(tag, vr, PrimitiveValue::from(value));
    let short = |tag: Tag, value: u16| DataElement::new(tag, VR::US, PrimitiveValue::from(value));
    let decimal = |tag: Tag, value: f64| {
        DataElement::new(tag, VR::DS, PrimitiveValue::from(format!("{value}")))
    };
    // The window that a viewer should open with, in rescaled values.
    let (centre, width) = (0.44 * WHITE * technique.slope, 0.88 * WHITE * technique.slope);
    let centre = if technique.inverted { FULL * technique.slope - centre } else { centre };
    let mut object = InMemDicomObject::from_element_iter([
        text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"),
        text(tags::IMAGE_TYPE, VR::CS, "DERIVED\\PRIMARY"),
        text(tags::SOP_CLASS_UID, VR::UI, class),
        text(tags::SOP_INSTANCE_UID, VR::UI, &identity.instance),
        text(tags::STUDY_DATE, VR::DA, "20260105"),
        text(tags::STUDY_TIME, VR::TM, "120000"),
        text(tags::ACCESSION_NUMBER, VR::SH, ""),
        text(tags::MODALITY, VR::CS, if technique.digital { "DX" } else { "CR" }),
        text(tags::MANUFACTURER, VR::LO, "Synthetic"),
        text(tags::REFERRING_PHYSICIAN_NAME, VR::PN, ""),
        text(tags::PATIENT_NAME, VR::PN, &format!("Synthetic^{}", identity.patient)),
        text(tags::PATIENT_ID, VR::LO, identity.patient),
        text(tags::PATIENT_BIRTH_DATE, VR::DA, ""),
        text(tags::PATIENT_SEX, VR::CS, "O"),
        text(tags::BODY_PART_EXAMINED, VR::CS, "CHEST"),
        text(tags::VIEW_POSITION, VR::CS, "PA"),
        text(tags::STUDY_INSTANCE_UID, VR::UI, identity.study),
        text(tags::SERIES_INSTANCE_UID, VR::UI, &identity.series),
        text(tags::STUDY_ID, VR::SH, "1"),
        text(tags::SERIES_NUMBER, VR::IS, &identity.number.to_string()),
        text(tags::INSTANCE_NUMBER, VR::IS, "1"),
        text(tags::PATIENT_ORIENTATION, VR::CS, "L\\F"),
        text(tags::IMAGE_LATERALITY, VR::CS, "U"),
        short(tags::SAMPLES_PER_PIXEL, 1),
        text(
            tags::PHOTOMETRIC_INTERPRETATION,
            VR::CS,
            if technique.inverted { "MONOCHROME1" } else { "MONOCHROME2" },
        ),
        short(tags::ROWS, size),
        short(tags::COLUMNS, size),
        short(tags::BITS_ALLOCATED, 16),
        short(tags::BITS_STORED, 12),
        short(tags::HIGH_BIT, 11),
        short(tags::PIXEL_REPRESENTATION, 0),
        text(tags::BURNED_IN_ANNOTATION, VR::CS, "NO"),
        text(tags::PIXEL_INTENSITY_RELATIONSHIP, VR::CS, "LOG"),
        decimal(tags::WINDOW_CENTER, centre),
        decimal(tags::WINDOW_WIDTH, width),
        decimal(tags::RESCALE_INTERCEPT, 0.0),
        decimal(tags::RESCALE_SLOPE, technique.slope),
        text(tags::RESCALE_TYPE, VR::LO, "US"),
        text(tags::LOSSY_IMAGE_COMPRESSION, VR::CS, "00"),
        text(
            tags::PRESENTATION_LUT_SHAPE,
            VR::CS,
            if technique.inverted { "INVERSE" } else { "IDENTITY" },
        ),
        DataElement::new(
            tags::PIXEL_DATA,
            VR::OW,
            PrimitiveValue::U16(pixels.iter().copied().collect()),
        ),
    ]);
    if technique.digital {
        let relation = PrimitiveValue::from(-1_i16);
        object.put(DataElement::new(tags::PIXEL_INTENSITY_RELATIONSHIP_SIGN, VR::SS, relation));
        object.put(text(tags::PRESENTATION_INTENT_TYPE, VR::CS, "FOR PRESENTATION"));
        object.put(text(tags::DETECTOR_TYPE, VR::CS, "DIRECT"));
        object.put(DataElement::new(
            tags::IMAGER_PIXEL_SPACING,
            VR::DS,
            dicom_value!(Strs, ["2.7", "2.7"]),
        ));
        // Present and empty, as the DX object asks for.
        for tag in [tags::ANATOMIC_REGION_SEQUENCE, tags::ACQUISITION_CONTEXT_SEQUENCE] {
            object.put(DataElement::new(tag, VR::SQ, DataSetSequence::empty()));
        }
    }
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
        .media_storage_sop_class_uid(class)
        .media_storage_sop_instance_uid(identity.instance.as_str());
    let file = object.with_meta(meta).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(pixels.len() * 2 + 4096);
    file.write_all(&mut bytes).map_err(io::Error::other)?;
    std::fs::write(path, bytes)
}
