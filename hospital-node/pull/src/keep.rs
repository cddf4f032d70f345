//! Which elements of a header reach the disk: those that the reader needs for pixels, those that say
//! what belongs together, and those that this house lists. All others are dropped as they arrive.

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

/// Elements of group 0010 that name nobody: sex, age, size, weight, smoking, pregnancy.
const ABOUT_THE_PATIENT: [u16; 6] = [0x0040, 0x1010, 0x1020, 0x1030, 0x21a0, 0x21c0];

impl Keep {
    /// Adds an element to the list, by its keyword or as `gggg,eeee`.
    ///
    /// # Errors
    /// What may be listed: an element of the standard that names no person.
    pub fn add(&mut self, word: &str) -> Result<(), &'static str> {
        let entry = StandardDataDictionary
            .by_expr(word)
            .ok_or("a keyword or a tag (gggg,eeee) of the standard's dictionary")?;
        let (DicomTag(group, element), vr) = (entry.tag(), entry.vr().relaxed());
        let identity = match group {
            0x0010 => !ABOUT_THE_PATIENT.contains(&element),
            0x0008 => element == 0x0050,
            0x0020 => element == 0x0010,
            0x0038 => true,
            _ => false,
        };
        if identity || vr == VR::PN {
            return Err("an element that names no person, visit or order");
        }
        if group <= 2 || group % 2 == 1 || group >= 0x7f00 || element == 0 {
            return Err("an element of a data set beside its pixels");
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
    fn what_names_a_person_cannot_be_listed() {
        let mut keep = Keep::default();
        for wrong in [
            "PatientName",
            "0010,0010",
            "PatientID",
            "PatientBirthDate",
            "OtherPatientIDs",
            "ReferringPhysicianName",
            "AccessionNumber",
            "StudyID",
            "AdmissionID",
            "0009,0010",
            "7fe0,0010",
            "0002,0010",
            "0018,0000",
            "NoSuchKeyword",
            "",
        ] {
            assert!(keep.add(wrong).is_err(), "{wrong}");
        }
        assert!(keep.more.is_empty());
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
