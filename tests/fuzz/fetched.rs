//! What an archive sends: an instance in a multipart answer, or bare, goes through the sieve or is
//! refused; what has gone through goes through once more. Answers to queries are read or refused.

use hospital_pull::dimse::message::Values;
use hospital_pull::keep::Keep;
use hospital_pull::names::Names;
use hospital_pull::sieve::{Asked, Form, Rules, sieve};
use hospital_pull::web::multipart::{Part, boundary};

const UIDS: [&str; 3] = ["1.2.1", "1.2.2", "1.2.3"];
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";

fn through(from: &mut dyn std::io::Read, form: Form<'_>, uids: [&str; 3]) -> Option<Vec<u8>> {
    let (names, mut keep) = (Names::new([7; 32]), Keep::default());
    keep.add("PatientSex").expect("names nobody");
    keep.add("ViewCodeSequence").expect("names nobody");
    let [study, series, instance] = uids;
    let asked = Asked { study, series, instance };
    let rules = Rules { keep: &keep, names: &names, asked, patient: &|_| true, most: 1 << 20 };
    let mut to = Vec::new();
    sieve(from, form, &mut to, &rules).ok().map(|_| to)
}

/// A byte says how the rest has come.
#[must_use]
pub(crate) fn run(data: &[u8]) -> bool {
    let Some((how, rest)) = data.split_first() else { return false };
    let out = match how {
        b'm' => {
            let boundary = boundary("multipart/related; boundary=b").expect("a boundary");
            let Ok(mut part) = Part::open(rest, &boundary) else { return false };
            let out = through(&mut part, Form::File, UIDS);
            out.filter(|_| part.close().is_ok())
        }
        b'f' => through(&mut &*rest, Form::File, UIDS),
        b'e' => through(&mut &*rest, Form::DataSet { syntax: EXPLICIT, class: "" }, UIDS),
        b'i' => through(&mut &*rest, Form::DataSet { syntax: IMPLICIT, class: "" }, UIDS),
        _ => {
            let Ok(values) = Values::decode(rest) else { return false };
            assert_eq!(Values::decode(&values.encode(false)), Ok(values));
            return true;
        }
    };
    let Some(out) = out else { return false };
    let renamed = UIDS.map(|uid| Names::new([7; 32]).uid(uid));
    let again = through(&mut out.as_slice(), Form::File, renamed.each_ref().map(String::as_str));
    assert!(again.is_some(), "what has gone through goes through again");
    true
}

fn element(to: &mut Vec<u8>, explicit: bool, tag: [u16; 2], vr: &[u8; 2], value: &[u8]) {
    let length = u32::try_from(value.len()).expect("short").to_le_bytes();
    to.extend(tag.map(u16::to_le_bytes).concat());
    match (explicit, vr) {
        (false, _) => to.extend(length),
        (true, b"OW" | b"OB" | b"SQ") => to.extend([&vr[..], &[0, 0], &length].concat()),
        (true, _) => to.extend([&vr[..], &length[..2]].concat()),
    }
    to.extend(value);
}

fn data_set(explicit: bool) -> Vec<u8> {
    let mut to = Vec::new();
    let mut add = |tag, vr: &[u8; 2], value: &[u8]| element(&mut to, explicit, tag, vr, value);
    add([8, 5], b"CS", b"ISO_IR 100");
    add([8, 0x18], b"UI", b"1.2.3\0");
    add([8, 0x60], b"CS", b"CR");
    add([0x10, 0x10], b"PN", b"No^Body ");
    add([0x10, 0x20], b"LO", b"4711");
    add([0x10, 0x21], b"LO", b"house ");
    add([0x10, 0x40], b"CS", b"O ");
    add([0x20, 0x0d], b"UI", b"1.2.1\0");
    add([0x20, 0x0e], b"UI", b"1.2.2\0");
    let mut table = Vec::new();
    element(&mut table, explicit, [0x28, 0x3002], b"US", &[1, 0, 0, 0, 8, 0]);
    element(&mut table, explicit, [0x28, 0x3003], b"LO", b"said");
    let length = u32::try_from(table.len()).expect("short").to_le_bytes();
    let item = [&[0xfe, 0xff, 0, 0xe0][..], &length, &table].concat();
    element(&mut to, explicit, [0x28, 0x3010], b"SQ", &item);
    let open =
        [&[0xfe, 0xff, 0, 0xe0][..], &[0xff; 4], &table, &[0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0]];
    let vr: &[u8] = if explicit { b"SQ\0\0" } else { b"" };
    for tag in [[8, 0, 0x40, 0x11], [0x54, 0, 0x20, 2]] {
        let end = [0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0];
        to.extend([&tag[..], vr, &[0xff; 4], &open.concat(), &end].concat());
    }
    element(&mut to, explicit, [0x7fe0, 0x10], b"OW", &[7; 8]);
    to
}

/// One of each kind.
#[must_use]
pub(crate) fn examples() -> Vec<Vec<u8>> {
    let explicit = data_set(true);
    let mut file = [&[0; 128][..], b"DICM"].concat();
    element(&mut file, true, [2, 0x10], b"UI", format!("{EXPLICIT}\0").as_bytes());
    let mut fragments = explicit[..explicit.len() - 20].to_vec();
    fragments.extend([0xe0, 0x7f, 0x10, 0, b'O', b'B', 0, 0, 0xff, 0xff, 0xff, 0xff]);
    fragments.extend([0xfe, 0xff, 0, 0xe0, 2, 0, 0, 0, 1, 2, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
    file.extend(&explicit);
    let answer = [b"m--b\r\nA: b\r\n\r\n", file.as_slice(), b"\r\n--b--\r\n"].concat();
    let values = Values::default().with_text((0x20, 0x0d), "1.2.1").with_number((0, 0x900), 0);
    vec![
        answer,
        [b"f", file.as_slice()].concat(),
        [b"e", explicit.as_slice()].concat(),
        [b"e", fragments.as_slice()].concat(),
        [b"i", data_set(false).as_slice()].concat(),
        [b"v", values.encode(false).as_slice()].concat(),
    ]
}
