//! What an archive holds, in memory: small images of people who do not exist, with the word CANARY
//! wherever a header names somebody.

const CR: &str = "1.2.840.10008.5.1.4.1.1.1";
pub(crate) const EXPLICIT: &str = "1.2.840.10008.1.2.1";

/// One instance that an archive holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) study: String,
    pub(crate) series: String,
    pub(crate) instance: String,
    pub(crate) class: &'static str,
    pub(crate) patient: String,
    pub(crate) modality: &'static str,
    pub(crate) date: String,
    pub(crate) description: String,
    pub(crate) pixels: bool,
}

/// Three patients with two studies of two images each.
pub(crate) fn contents() -> Vec<Held> {
    let mut held = Vec::new();
    for patient in 1..=3 {
        for study in 1..=2 {
            for instance in 1..=2 {
                let study_uid = format!("1.2.{patient}.{study}");
                held.push(Held {
                    series: format!("{study_uid}.1"),
                    instance: format!("{study_uid}.1.{instance}"),
                    study: study_uid,
                    class: CR,
                    patient: format!("CANARY-{patient}"),
                    modality: "CR",
                    date: format!("202{study}0115"),
                    description: format!("Thorax {study}"),
                    pixels: true,
                });
            }
        }
    }
    held
}

fn element(to: &mut Vec<u8>, tag: [u16; 2], vr: &[u8; 2], value: &[u8]) {
    for part in tag {
        to.extend_from_slice(&part.to_le_bytes());
    }
    to.extend_from_slice(vr);
    let pad = value.len() % 2;
    let length = u16::try_from(value.len() + pad).expect("short");
    if vr == b"OW" {
        to.extend_from_slice(&[0, 0]);
        to.extend_from_slice(&u32::from(length).to_le_bytes());
    } else {
        to.extend_from_slice(&length.to_le_bytes());
    }
    to.extend_from_slice(value);
    to.extend_from_slice(&[if vr == b"UI" { 0 } else { b' ' }][..pad]);
}

impl Held {
    /// Its data set, in explicit VR little endian.
    pub(crate) fn data_set(&self) -> Vec<u8> {
        let mut to = Vec::new();
        element(&mut to, [8, 0x16], b"UI", self.class.as_bytes());
        element(&mut to, [8, 0x18], b"UI", self.instance.as_bytes());
        element(&mut to, [8, 0x20], b"DA", self.date.as_bytes());
        element(&mut to, [8, 0x60], b"CS", self.modality.as_bytes());
        element(&mut to, [8, 0x103e], b"LO", self.description.as_bytes());
        element(&mut to, [0x10, 0x10], b"PN", b"CANARY^NAME");
        element(&mut to, [0x10, 0x20], b"LO", self.patient.as_bytes());
        element(&mut to, [0x20, 0x0d], b"UI", self.study.as_bytes());
        element(&mut to, [0x20, 0x0e], b"UI", self.series.as_bytes());
        if self.pixels {
            for (number, value) in
                [(2, 1), (0x10, 16), (0x11, 16), (0x100, 8), (0x101, 8), (0x103, 0_u16)]
            {
                element(&mut to, [0x28, number], b"US", &value.to_le_bytes());
                if number == 2 {
                    element(&mut to, [0x28, 4], b"CS", b"MONOCHROME2");
                }
            }
            // No two images are the same.
            let seed = self.instance.bytes().fold(0x811c_9dc5_u32, |sum, byte| {
                (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
            let pixels: Vec<u8> =
                (0..=255_u8).map(|at| seed.rotate_left(at.into()).to_le_bytes()[0] ^ at).collect();
            element(&mut to, [0x7fe0, 0x10], b"OW", &pixels);
        }
        to
    }

    /// Its file.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut to = vec![0; 128];
        to.extend_from_slice(b"DICM");
        element(&mut to, [2, 2], b"UI", self.class.as_bytes());
        element(&mut to, [2, 3], b"UI", self.instance.as_bytes());
        element(&mut to, [2, 0x10], b"UI", EXPLICIT.as_bytes());
        element(&mut to, [2, 0x16], b"AE", b"CANARY-AE");
        to.extend(self.data_set());
        to
    }
}
