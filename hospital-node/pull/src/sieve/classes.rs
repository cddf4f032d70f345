//! What the standard's own UIDs are for (PS3.4 B.5, PS3.6 A).

use super::is_uid;

/// Where the standard's storage classes are.
const STORAGE: &str = "1.2.840.10008.5.1.4.1.1.";
/// Below it, those of other things than pixels, each with all that is below it.
const NO_IMAGES: [&str; 24] = [
    "4.2",      // MR spectra
    "8",        // overlays, curves and tables by themselves
    "10",       //
    "129",      //
    "9",        // waveforms
    "601.5",    //
    "11",       // presentation states
    "66",       // raw data, registrations, fiducials, surfaces
    "67",       // real world value mapping
    "68",       // surface scans
    "77.1.5.3", // which two images are a pair
    "78",       // eye measurements
    "79",       //
    "80",       //
    "88",       // reports
    "90",       // what was thought of an image
    "91",       // annotations
    "104",      // encapsulated documents
    "131",      // how things are shown
    "200",      // protocols
    "201",      // inventories
    "481",      // radiotherapy: structures, plans, records
    "501.3",    // reports again
    "501.6",    //
];
/// Below those, what has pixels after all: segmentations, height maps, radiotherapy's images and doses.
const IMAGES: [&str; 7] = ["66.4", "66.7", "66.8", "481.1", "481.2", "481.23", "481.24"];

/// What an SOP class is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Pixels; what is not known counts as such.
    Image,
    /// Something else, as the standard says.
    Other,
    /// What its maker knows.
    Makers,
}

impl Kind {
    pub(super) fn of(class: &str) -> Self {
        if !class.starts_with("1.2.840.10008.") {
            return if is_uid(class) { Self::Makers } else { Self::Image };
        }
        let Some(rest) = class.strip_prefix(STORAGE) else { return Self::Other };
        let below = |arc: &str| {
            rest.strip_prefix(arc).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let other = NO_IMAGES.into_iter().any(below) && !IMAGES.into_iter().any(below);
        if other { Self::Other } else { Self::Image }
    }
}

/// Whether the standard itself has given this UID to something: a class, a syntax, a frame of
/// reference. Under its root there are no longer ones, so no number of a patient fits there.
pub(super) fn is_well_known(uid: &str) -> bool {
    const ROOT: &str = "1.2.840.10008.";
    is_uid(uid)
        && uid.strip_prefix(ROOT).is_some_and(|rest| {
            let mut arcs = rest.split('.');
            arcs.clone().count() <= 9 && arcs.all(|arc| arc.len() <= 3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_tells_whether_there_must_be_pixels() {
        for (class, expected) in [
            ("1.2.840.10008.5.1.4.1.1.1", Kind::Image),
            ("1.2.840.10008.5.1.4.1.1.2", Kind::Image),
            ("1.2.840.10008.5.1.4.1.1.4", Kind::Image),
            ("1.2.840.10008.5.1.4.1.1.4.2", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.66", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.66.4", Kind::Image),
            ("1.2.840.10008.5.1.4.1.1.66.5", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.88.11", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.11.1", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.104.1", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.481.1", Kind::Image),
            ("1.2.840.10008.5.1.4.1.1.481.2", Kind::Image),
            ("1.2.840.10008.5.1.4.1.1.481.3", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.481.10", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.10", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.104", Kind::Other),
            ("1.2.840.10008.5.1.4.1.1.1.1.1", Kind::Image),
            ("1.2.840.10008.5.1.4.34.7", Kind::Other),
            ("1.3.12.2.1107.5.9.1", Kind::Makers),
            ("", Kind::Image),
            ("no class", Kind::Image),
        ] {
            assert_eq!(Kind::of(class), expected, "{class}");
        }
    }

    #[test]
    fn only_what_the_standard_can_have_given_is_well_known() {
        for (uid, expected) in [
            ("1.2.840.10008.1.2.4.90", true),
            ("1.2.840.10008.5.1.4.1.1.481.10", true),
            ("1.2.840.10008.1.4.1.1", true),
            ("1.2.840.10008.4711", false),
            ("1.2.840.10008.5.1.4.1.1.2.20240101", false),
            ("1.2.840.10008.1.1.1.1.1.1.1.1.1.1", false),
            ("1.2.840.10008.1.2.", false),
            ("1.2.840.113619.1.2", false),
        ] {
            assert_eq!(is_well_known(uid), expected, "{uid}");
        }
    }
}
