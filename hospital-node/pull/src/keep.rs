//! Which elements of a header reach the disk: those that the reader needs for pixels, those that say
//! what belongs together, and those that this house lists. All others are dropped as they arrive.

mod addable;

use std::collections::BTreeMap;

use dicom_core::dictionary::{DataDictionary as _, DataDictionaryEntry as _};
use dicom_core::{Tag as DicomTag, VR};
use dicom_dictionary_std::StandardDataDictionary;

/// Group and element.
pub type Tag = (u16, u16);

/// What becomes of an element that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// As it is.
    Copy,
    /// UIDs, each replaced by its pseudonym; those of the standard stay.
    Uids,
    /// A sequence, with those of its elements that are kept.
    Sequence,
}

/// The allow-list.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    more: BTreeMap<Tag, Rule>,
}

impl Keep {
    /// Adds an element to the list, by its keyword or as `gggg,eeee`.
    ///
    /// # Errors
    /// What may be listed.
    pub fn add(&mut self, word: &str) -> Result<(), &'static str> {
        let entry = StandardDataDictionary
            .by_expr(word)
            .ok_or("a keyword or a tag (gggg,eeee) of the standard's dictionary")?;
        let (DicomTag(group, element), vr) = (entry.tag(), entry.vr().relaxed());
        if !addable::ADDABLE.contains(&entry.alias()) && standard(group, element).is_none() {
            return Err("an element that says how an image was made, or of what (README.md tells \
                        which), and that names no person, visit, order or machine");
        }
        let rule = if vr == VR::SQ {
            Rule::Sequence
        } else if vr == VR::UI {
            Rule::Uids
        } else {
            Rule::Copy
        };
        if standard(group, element).is_none() {
            self.more.insert((group, element), rule);
        }
        Ok(())
    }

    /// What becomes of this element; `None`: it is dropped.
    #[must_use]
    pub fn rule(&self, tag: Tag) -> Option<Rule> {
        standard(tag.0, tag.1).or_else(|| self.more.get(&tag).copied())
    }
}

/// What is always kept. `PatientID` is not here: it is read apart, and what is written in its place
/// is the pseudonym.
const fn standard(group: u16, element: u16) -> Option<Rule> {
    match (group, element) {
        // How text is written, what kind of object it is and of which machine.
        (0x0008, 0x0005 | 0x0016 | 0x0060)
        // Where a slice lies, and how far pixels are apart.
        | (0x0018, 0x0050 | 0x0088 | 0x1164 | 0x2010)
        | (0x0020, 0x0013 | 0x0032 | 0x0037)
        // What pixels are.
        | (0x0028, 0x0002..=0x0011 | 0x0030 | 0x0100..=0x0103 | 0x0120 | 0x0121)
        // What they mean; not the explanations beside them, which are free text.
        | (0x0028, 0x1050..=0x1053 | 0x1056 | 0x1101..=0x1103 | 0x1201..=0x1203 | 0x1221..=0x1223)
        | (0x0028, 0x3002 | 0x3006)
        // Whether text is burned into them.
        | (0x0028, 0x0301)
        // They themselves.
        | (0x7fe0, 0x0001 | 0x0002 | 0x0008 | 0x0009 | 0x0010) => Some(Rule::Copy),
        // Which study, series and instance.
        (0x0008, 0x0018) | (0x0020, 0x000d | 0x000e) => Some(Rule::Uids),
        // Modality and VOI tables; functional groups and what in them decides pixels and places.
        (0x0028, 0x3000 | 0x3010 | 0x9110 | 0x9132 | 0x9145)
        | (0x5200, 0x9229 | 0x9230)
        | (0x0020, 0x9113 | 0x9116) => Some(Rule::Sequence),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_person_a_visit_an_order_or_a_machine_cannot_be_listed() {
        let mut keep = Keep::default();
        for wrong in [
            "PatientName",
            "0010,0010",
            "PatientID",
            "PatientBirthDate",
            "OtherPatientIDs",
            "PatientAddress",
            "PatientTelephoneNumbers",
            "PersonAddress",
            "PersonTelephoneNumbers",
            "ReferringPhysicianName",
            "ReferringPhysicianAddress",
            "ReferringPhysicianTelephoneNumbers",
            "PerformingPhysicianName",
            "OperatorsName",
            "OrderCallbackPhoneNumber",
            "OrderEnteredBy",
            "ClinicalTrialSubjectID",
            "ClinicalTrialSubjectReadingID",
            "AccessionNumber",
            "StudyID",
            "AdmissionID",
            "RequestedProcedureID",
            "ScheduledProcedureStepID",
            "FillerOrderNumberImagingServiceRequest",
            "PlacerOrderNumberImagingServiceRequest",
            "RequestAttributesSequence",
            "ReferencedPatientSequence",
            "OtherPatientIDsSequence",
            "InstitutionName",
            "InstitutionAddress",
            "StationName",
            "DeviceSerialNumber",
            "ImageComments",
            "PatientComments",
            "TextValue",
            "PersonName",
            "0009,0010",
            "0002,0010",
            "0018,0000",
            "NoSuchKeyword",
            "",
        ] {
            assert!(keep.add(wrong).is_err(), "{wrong}");
        }
        assert!(keep.more.is_empty());
    }

    /// Whatever tag there is: it is on the one list or on the other, or it cannot be added.
    #[test]
    fn of_the_whole_dictionary_only_the_list_can_be_added() {
        let (mut found, mut all) = (0, 0);
        for group in (0x0008..=0x0070_u16).chain([0x0400, 0x2050, 0x3006, 0x300a, 0x4008, 0x5200]) {
            for element in 0..=u16::MAX {
                let Some(entry) = StandardDataDictionary.by_tag(DicomTag(group, element)) else {
                    continue;
                };
                all += 1;
                let mut keep = Keep::default();
                let added = keep.add(&format!("{group:04x},{element:04x}"));
                let listed = addable::ADDABLE.contains(&entry.alias());
                assert_eq!(
                    added.is_ok(),
                    listed || standard(group, element).is_some(),
                    "{entry:?}"
                );
                if listed {
                    found += 1;
                    let name = entry.alias();
                    assert_ne!(entry.vr().relaxed(), VR::PN, "{name}");
                    for word in ["Name", "Address", "Telephone", "Phone", "Physician", "Comments"] {
                        let harmless = ["ProtocolName", "SequenceName", "ManufacturerModelName"];
                        assert!(!name.contains(word) || harmless.contains(&name), "{name}");
                    }
                    assert!(
                        !name.ends_with("ID") || name.ends_with("UID") || name == "StackID",
                        "{name}"
                    );
                }
            }
        }
        assert!(all > 2500, "{all}");
        assert_eq!(found, addable::ADDABLE.len(), "each is in the dictionary, once");
    }

    #[test]
    fn what_this_house_lists_is_kept_and_nothing_else() {
        let mut keep = Keep::default();
        for word in ["PatientSex", "(0018,0015)", "0008,2112", "FrameOfReferenceUID", "Modality"] {
            assert_eq!(keep.add(word), Ok(()), "{word}");
        }
        assert_eq!(keep.rule((0x10, 0x40)), Some(Rule::Copy));
        assert_eq!(keep.rule((0x18, 0x15)), Some(Rule::Copy));
        assert_eq!(keep.rule((0x08, 0x2112)), Some(Rule::Sequence));
        assert_eq!(keep.rule((0x20, 0x52)), Some(Rule::Uids));
        assert_eq!(keep.rule((0x08, 0x60)), Some(Rule::Copy));
        for dropped in [(0x10, 0x10), (0x10, 0x20), (0x08, 0x20), (0x08, 0x1030), (0x28, 0x1055)] {
            assert_eq!(keep.rule(dropped), None, "{dropped:?}");
        }
    }
}
