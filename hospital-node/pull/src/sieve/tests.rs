use hospital_images::dicom::Stored;

use super::*;

const ASKED: Asked<'static> = Asked { study: "1.9.901", series: "1.9.902", instance: "1.9.903" };
const CR: &str = "1.2.840.10008.5.1.4.1.1.1";

/// How a test writes elements: explicit or implicit, little or big endian.
#[derive(Clone, Copy)]
struct Writer(Encoding);

const EXPLICIT_LITTLE: Writer = Writer(Encoding { explicit: true, big_endian: false });

impl Writer {
    fn element(self, to: &mut Vec<u8>, tag: Tag, vr: &[u8; 2], value: &[u8]) {
        let length = u32::try_from(value.len()).expect("short");
        let header = Header { tag, vr: Some(*vr), length };
        stream::write_header(to, self.0, header).expect("memory");
        to.extend_from_slice(value);
    }

    fn text(self, to: &mut Vec<u8>, tag: Tag, vr: &[u8; 2], value: &str) {
        stream::write_text(to, self.0, tag, *vr, value).expect("memory");
    }

    fn number(self, to: &mut Vec<u8>, tag: Tag, value: u16) {
        let bytes = if self.0.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.element(to, tag, b"US", &bytes);
    }

    fn marked(self, to: &mut Vec<u8>, tag: Tag, vr: Option<&[u8; 2]>, length: u32) {
        stream::write_header(to, self.0, Header { tag, vr: vr.copied(), length }).expect("memory");
    }

    /// A small image of a patient, with a name in every place that there is.
    fn image(self) -> Vec<u8> {
        let mut to = Vec::new();
        self.text(&mut to, CHARACTER_SET, b"CS", "ISO_IR 100");
        self.text(&mut to, CLASS, b"UI", CR);
        self.text(&mut to, INSTANCE, b"UI", ASKED.instance);
        self.text(&mut to, (8, 0x20), b"DA", "20240101");
        self.text(&mut to, (8, 0x50), b"SH", "CANARY1");
        self.text(&mut to, MODALITY, b"CS", "CR");
        self.text(&mut to, (8, 0x1030), b"LO", "CANARY2");
        // A sequence with names in it, and pixels of an icon.
        self.marked(&mut to, (8, 0x1140), Some(b"SQ"), UNDEFINED);
        self.marked(&mut to, ITEM, None, UNDEFINED);
        self.text(&mut to, (8, 0x1155), b"UI", "1.2.3.4.CANARY3");
        if self.0.explicit {
            self.marked(&mut to, (0x7fe0, 0x10), Some(b"OB"), UNDEFINED);
            self.marked(&mut to, ITEM, None, 8);
            to.extend_from_slice(b"CANARY4 ");
            self.marked(&mut to, SEQUENCE_END, None, 0);
        }
        self.marked(&mut to, ITEM_END, None, 0);
        self.marked(&mut to, SEQUENCE_END, None, 0);
        self.text(&mut to, (9, 0x10), b"LO", "CANARY5");
        self.text(&mut to, (0x10, 0x10), b"PN", "CANARY^SIX");
        self.text(&mut to, PATIENT, b"LO", "4711-CANARY7");
        self.text(&mut to, ISSUER, b"LO", "CANARY8");
        self.text(&mut to, (0x10, 0x40), b"CS", "O");
        self.text(&mut to, STUDY, b"UI", ASKED.study);
        self.text(&mut to, SERIES, b"UI", ASKED.series);
        self.number(&mut to, (0x28, 2), 1);
        self.text(&mut to, (0x28, 4), b"CS", "MONOCHROME2");
        for (element, value) in [(0x10, 2), (0x11, 2), (0x100, 16), (0x101, 12), (0x102, 11)] {
            self.number(&mut to, (0x28, element), value);
        }
        self.number(&mut to, (0x28, 0x103), 0);
        self.text(&mut to, (0x28, 0x1055), b"LO", "CANARY9");
        // A kept sequence with something kept and something dropped, and a length.
        let mut item = Vec::new();
        let table: Vec<u8> = [3_u16, 0, 8]
            .iter()
            .flat_map(
                |word| if self.0.big_endian { word.to_be_bytes() } else { word.to_le_bytes() },
            )
            .collect();
        self.element(&mut item, (0x28, 0x3002), b"US", &table);
        self.text(&mut item, (0x28, 0x3003), b"LO", "CANARY10");
        self.element(&mut item, (0x28, 0x3006), b"US", &table);
        let mut items = Vec::new();
        self.marked(&mut items, ITEM, None, u32::try_from(item.len()).expect("short"));
        items.append(&mut item);
        self.element(&mut to, (0x28, 0x3010), b"SQ", &items);
        self.element(&mut to, (0x7fe0, 0x10), b"OW", &[1, 2, 3, 4, 5, 6, 7, 8]);
        self.text(&mut to, (0xfffc, 0xfffc), b"OB", "CANARY11");
        to
    }
}

fn kept() -> Keep {
    let mut keep = Keep::default();
    keep.add("PatientSex").expect("may be kept");
    keep
}

fn run(bytes: &[u8], form: Form<'_>, keep: &Keep) -> Result<(Vec<u8>, Sieved), Fault> {
    let names = Names::new([7; 32]);
    let patient = |id: &str| id == "4711-CANARY7";
    let rules = Rules { keep, names: &names, asked: ASKED, patient: &patient, most: 1 << 20 };
    let mut to = Vec::new();
    let found = sieve(&mut &*bytes, form, &mut to, &rules)?;
    Ok((to, found))
}

fn data_set(bytes: &[u8], syntax: &str) -> Result<(Vec<u8>, Sieved), Fault> {
    run(bytes, Form::DataSet { syntax, class: CR }, &kept())
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn names_are_dropped_and_pixels_stay_in_every_encoding() {
    let names = Names::new([7; 32]);
    for (explicit, big_endian, syntax) in
        [(true, false, EXPLICIT), (false, false, IMPLICIT), (true, true, BIG_ENDIAN)]
    {
        let bytes = Writer(Encoding { explicit, big_endian }).image();
        let (out, found) = data_set(&bytes, syntax).expect("sound");
        assert!(!has(&out, "CANARY") && !has(&out, "4711") && !has(&out, "20240101"), "{syntax}");
        for gone in [ASKED.study, ASKED.series, ASKED.instance] {
            assert!(!has(&out, gone), "{syntax} {gone}");
            assert!(has(&out, &names.uid(gone)), "{syntax} {gone}");
        }
        let pseudonym = names.patient("4711-CANARY7", "CANARY8");
        assert!(has(&out, &pseudonym) && found.patient == pseudonym, "{syntax}");
        assert_eq!((found.modality.as_str(), found.patient_id.as_str()), ("CR", "4711-CANARY7"));
        assert!(has(&out, syntax) && has(&out, "MONOCHROME2"));
        assert!(out.ends_with(&[1, 2, 3, 4, 5, 6, 7, 8]), "{syntax}");
        let stored = Stored::decode(&out).expect("the trainer's reader takes it");
        assert_eq!((stored.rows, stored.columns, stored.bits_stored), (2, 2, 12));
        // What was put through goes through again, and comes out as it was but for its names.
        let again = names.uid(ASKED.study);
        assert!(has(&out, &again));
    }
}

#[test]
fn a_file_and_a_deflated_data_set_come_out_like_a_data_set() {
    let bytes = EXPLICIT_LITTLE.image();
    let (expected, _) = data_set(&bytes, EXPLICIT).expect("sound");
    let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&bytes).expect("memory");
    let packed = packer.finish().expect("memory");
    assert_eq!(data_set(&packed, DEFLATED).expect("sound").0, expected);
    for (syntax, body) in [(EXPLICIT, &bytes), (DEFLATED, &packed)] {
        let mut file = Vec::new();
        write_meta(&mut file, syntax, CR, "9.9.9").expect("memory");
        file.extend_from_slice(body);
        assert_eq!(run(&file, Form::File, &kept()).expect("sound").0, expected, "{syntax}");
    }
    // Announced as implicit, written as explicit.
    assert_eq!(data_set(&bytes, IMPLICIT).expect("sound").0, expected);
}

#[test]
fn fragments_go_through_as_they_are() {
    let mut bytes = EXPLICIT_LITTLE.image();
    let pixels = bytes.windows(4).rposition(|four| four == [0xe0, 0x7f, 0x10, 0]).expect("pixels");
    bytes.truncate(pixels);
    let from = bytes.len();
    EXPLICIT_LITTLE.marked(&mut bytes, (0x7fe0, 0x10), Some(b"OB"), UNDEFINED);
    for fragment in [&b""[..], b"\xff\xd8 one ", b"two two "] {
        let length = u32::try_from(fragment.len()).expect("short");
        EXPLICIT_LITTLE.marked(&mut bytes, ITEM, None, length);
        bytes.extend_from_slice(fragment);
    }
    let without_end = bytes.clone();
    EXPLICIT_LITTLE.marked(&mut bytes, SEQUENCE_END, None, 0);
    let syntax = "1.2.840.10008.1.2.4.50";
    for sent in [&bytes, &without_end] {
        let (out, _) = data_set(sent, syntax).expect("sound");
        assert!(out.ends_with(&bytes[from..]) && has(&out, syntax));
    }
}

#[test]
fn what_is_cut_anywhere_is_refused_and_never_a_fault_of_ours() {
    let bytes = EXPLICIT_LITTLE.image();
    let end = bytes.len() - 12 - 8;
    for cut in 0..end {
        let found = data_set(&bytes[..cut], EXPLICIT).expect_err("cut");
        assert!(
            matches!(found, Fault::Cut | Fault::Another(_) | Fault::NoPixels | Fault::NoPatient),
            "{cut}: {found}"
        );
    }
}

#[test]
fn any_byte_may_be_wrong() {
    for writer in [EXPLICIT_LITTLE, Writer(Encoding { explicit: false, big_endian: false })] {
        let syntax = if writer.0.explicit { EXPLICIT } else { IMPLICIT };
        let bytes = writer.image();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut wrong = bytes.clone();
                wrong[at] = value;
                // It goes through or is refused; what matters is that it ends.
                let _ = data_set(&wrong, syntax);
            }
        }
    }
}

#[test]
fn a_length_that_lies_sets_no_memory_aside() {
    let mut bytes = Vec::new();
    EXPLICIT_LITTLE.text(&mut bytes, INSTANCE, b"UI", ASKED.instance);
    let before = bytes.len();
    for (tag, vr) in [((0x28, 0x1201), b"OW"), ((8, 0x2112), b"OB"), ((0x7fe0, 0x10), b"OW")] {
        bytes.truncate(before);
        EXPLICIT_LITTLE.marked(&mut bytes, tag, Some(vr), UNDEFINED - 1);
        assert_eq!(data_set(&bytes, EXPLICIT), Err(Fault::TooLarge("the instance")));
    }
    // More than what holds it.
    bytes.truncate(before);
    EXPLICIT_LITTLE.marked(&mut bytes, (0x28, 0x3010), Some(b"SQ"), 16);
    EXPLICIT_LITTLE.marked(&mut bytes, ITEM, None, 100);
    bytes.extend_from_slice(&[0; 200]);
    assert!(matches!(data_set(&bytes, EXPLICIT), Err(Fault::Header(_))));
    // A name of a kilobyte.
    bytes.truncate(before);
    EXPLICIT_LITTLE.text(&mut bytes, PATIENT, b"LO", &"x".repeat(1026));
    assert!(matches!(data_set(&bytes, EXPLICIT), Err(Fault::Header(_))));
}

#[test]
fn sequences_that_never_end_are_refused() {
    for tag in [(0x28, 0x3010), (8, 0x1140)] {
        let mut bytes = Vec::new();
        for _ in 0..10_000 {
            EXPLICIT_LITTLE.marked(&mut bytes, tag, Some(b"SQ"), UNDEFINED);
            EXPLICIT_LITTLE.marked(&mut bytes, ITEM, None, UNDEFINED);
        }
        assert_eq!(
            data_set(&bytes, EXPLICIT),
            Err(Fault::Header("its sequences nest too deep")),
            "{tag:?}"
        );
    }
}

fn edited(change: impl Fn(&mut Vec<u8>)) -> Result<(Vec<u8>, Sieved), Fault> {
    let mut bytes = EXPLICIT_LITTLE.image();
    change(&mut bytes);
    data_set(&bytes, EXPLICIT)
}

fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    assert_eq!(from.len(), to.len(), "lengths stay");
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("there");
    bytes.splice(at..at + from.len(), to.bytes());
}

#[test]
fn another_object_than_the_one_that_was_asked_for_is_refused() {
    for (from, to, what) in [
        ("1.9.903", "1.9.904", "instance"),
        ("1.9.902", "1.9.904", "series"),
        ("1.9.901", "1.9.904", "study"),
        ("4711-CANARY7", "4712-CANARY7", "patient"),
    ] {
        let found = edited(|bytes| replace(bytes, from, to));
        assert_eq!(found, Err(Fault::Another(what)), "{what}");
    }
    let nobody = edited(|bytes| replace(bytes, "4711-CANARY7", "            "));
    assert_eq!(nobody, Err(Fault::NoPatient));
    let two = edited(|bytes| EXPLICIT_LITTLE.text(bytes, PATIENT, b"LO", "x"));
    // After the pixels nothing counts any more.
    assert!(two.is_ok());
    let mut bytes = Vec::new();
    EXPLICIT_LITTLE.text(&mut bytes, PATIENT, b"LO", "4711-CANARY7");
    EXPLICIT_LITTLE.text(&mut bytes, PATIENT, b"LO", "4712-CANARY7");
    assert_eq!(data_set(&bytes, EXPLICIT), Err(Fault::Header("it names two patients")));
    assert_eq!(data_set(&bytes[..20], EXPLICIT), Err(Fault::Another("instance")));
}

fn without_pixels(class: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    EXPLICIT_LITTLE.text(&mut bytes, CLASS, b"UI", class);
    EXPLICIT_LITTLE.text(&mut bytes, INSTANCE, b"UI", ASKED.instance);
    EXPLICIT_LITTLE.text(&mut bytes, PATIENT, b"LO", "4711-CANARY7");
    EXPLICIT_LITTLE.text(&mut bytes, STUDY, b"UI", ASKED.study);
    EXPLICIT_LITTLE.text(&mut bytes, SERIES, b"UI", ASKED.series);
    bytes
}

#[test]
fn only_what_was_asked_for_can_say_that_it_is_no_image() {
    let report = "1.2.840.10008.5.1.4.1.1.88.11";
    for (class, expected) in [
        (report, Fault::NotAnImage { standard: true }),
        ("1.3.12.2.1107.5.9.1", Fault::NotAnImage { standard: false }),
        (CR, Fault::NoPixels),
        ("", Fault::NoPixels),
    ] {
        assert_eq!(data_set(&without_pixels(class), EXPLICIT), Err(expected), "{class}");
    }
    for (from, what) in
        [(ASKED.instance, "instance"), (ASKED.series, "series"), (ASKED.study, "study")]
    {
        let mut bytes = without_pixels(report);
        replace(&mut bytes, from, "1.9.904");
        assert_eq!(data_set(&bytes, EXPLICIT), Err(Fault::Another(what)));
    }
}

#[test]
fn pixel_data_without_a_pixel_or_with_something_between_are_none() {
    for (vr, length) in [(b"OW", 0), (b"OB", UNDEFINED)] {
        let mut bytes = without_pixels(CR);
        EXPLICIT_LITTLE.marked(&mut bytes, (0x7fe0, 0x10), Some(vr), length);
        if length == UNDEFINED {
            EXPLICIT_LITTLE.marked(&mut bytes, ITEM, None, 0);
            EXPLICIT_LITTLE.marked(&mut bytes, SEQUENCE_END, None, 0);
        }
        assert_eq!(data_set(&bytes, EXPLICIT), Err(Fault::NoPixels));
    }
    let mut bytes = without_pixels(CR);
    EXPLICIT_LITTLE.marked(&mut bytes, (0x7fe0, 0x10), Some(b"OB"), UNDEFINED);
    EXPLICIT_LITTLE.marked(&mut bytes, ITEM, None, 2);
    bytes.extend_from_slice(&[1, 2]);
    EXPLICIT_LITTLE.element(&mut bytes, (0x7fe0, 0x11), b"OB", b"CANARY");
    assert!(matches!(data_set(&bytes, EXPLICIT), Err(Fault::Header(_))));
}

#[test]
fn a_uid_under_the_standards_root_is_renamed_where_it_names_something() {
    let names = Names::new([7; 32]);
    let own = "1.2.840.10008.1.2";
    let asked = Asked { series: own, ..ASKED };
    let mut bytes = Vec::new();
    for (tag, uid) in [
        (CLASS, CR),
        (INSTANCE, ASKED.instance),
        (STUDY, ASKED.study),
        (SERIES, own),
        ((0x20, 0x52), "1.2.840.10008.1.4.1.1"),
        ((0x20, 0x0200), "1.2.840.10008.4711"),
    ] {
        if tag == STUDY {
            EXPLICIT_LITTLE.text(&mut bytes, PATIENT, b"LO", "4711");
        }
        EXPLICIT_LITTLE.text(&mut bytes, tag, b"UI", uid);
    }
    EXPLICIT_LITTLE.element(&mut bytes, (0x7fe0, 0x10), b"OB", &[1, 2]);
    let mut keep = Keep::default();
    keep.add("FrameOfReferenceUID").expect("may be kept");
    let rules = Rules { keep: &keep, names: &names, asked, patient: &|_| true, most: 1 << 20 };
    let mut to = Vec::new();
    let form = Form::DataSet { syntax: EXPLICIT, class: "" };
    sieve(&mut &*bytes, form, &mut to, &rules).expect("sound");
    assert!(has(&to, &names.uid(own)) && has(&to, "1.2.840.10008.1.4.1.1") && !has(&to, "4711"));
}

#[test]
fn a_damaged_deflated_data_set_is_the_objects_fault() {
    let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&EXPLICIT_LITTLE.image()).expect("memory");
    let packed = packer.finish().expect("memory");
    let mut damaged = 0;
    for at in 0..packed.len() {
        let mut wrong = packed.clone();
        wrong[at] ^= 0x55;
        if let Err(fault) = data_set(&wrong, DEFLATED) {
            assert!(!fault.is_of_the_way(), "{fault}");
            damaged += usize::from(fault == Fault::Header("its deflated data set is damaged"));
        }
    }
    assert!(damaged > 0);
}

#[test]
fn an_identifier_beyond_ascii_is_read_in_its_character_set() {
    let names = Names::new([7; 32]);
    for (set, id) in [("ISO_IR 100", &b"M\xfcller"[..]), ("ISO_IR 192", "M\u{fc}ller".as_bytes())] {
        let mut bytes = Vec::new();
        EXPLICIT_LITTLE.text(&mut bytes, CHARACTER_SET, b"CS", set);
        EXPLICIT_LITTLE.text(&mut bytes, INSTANCE, b"UI", ASKED.instance);
        let odd = id.len() % 2;
        let id = [id, &b" "[..odd]].concat();
        EXPLICIT_LITTLE.element(&mut bytes, PATIENT, b"LO", &id);
        EXPLICIT_LITTLE.text(&mut bytes, STUDY, b"UI", ASKED.study);
        EXPLICIT_LITTLE.text(&mut bytes, SERIES, b"UI", ASKED.series);
        EXPLICIT_LITTLE.element(&mut bytes, (0x7fe0, 0x10), b"OB", &[1, 2]);
        let keep = Keep::default();
        let patient = |id: &str| id == "M\u{fc}ller";
        let rules =
            Rules { keep: &keep, names: &names, asked: ASKED, patient: &patient, most: 1 << 20 };
        let mut to = Vec::new();
        let form = Form::DataSet { syntax: EXPLICIT, class: "" };
        let found = sieve(&mut &*bytes, form, &mut to, &rules).expect("sound");
        assert_eq!(found.patient, names.patient("M\u{fc}ller", ""), "{set}");
    }
}
