use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn parse(section: &str) -> Result<Job, Vec<String>> {
    let head = "name = \"chest\"\nbase = \"/etc/consilium\"\nsecret = \"/k\"\nproxy = \"none\"\n";
    Job::parse(&format!("{head}[pull]\n{section}"))
}

#[test]
fn a_section_becomes_a_job_with_paths_below_the_configuration() {
    let job = parse(
        "from = \"https://pacs.hospital.example/dicom-web/\"\ninto = \"chest\"\nmodality = \"CR\"\n\
         study_date = \"20240101-\"\nlabel = \"normal\"\nkeep = [\"PatientSex\"]\n",
    )
    .expect("a job");
    assert_eq!(job.into, PathBuf::from("/etc/consilium/chest"));
    assert_eq!((job.modalities, job.label.as_str()), (vec!["CR".to_owned()], "normal"));
    assert_eq!(job.proxy, Proxy::Direct);
    assert!(matches!(job.from, Origin::Web { tls: true, login: None, .. }));
    let job = parse(
        "from = \"dicom-tls://pacs\"\ncalled = \"ARCHIVE\"\ninto = \"/x\"\nmodality = [\"CT\"]",
    );
    let expected = "Dimse { host: \"pacs\", port: 2762, tls: true, called: \"ARCHIVE\", calling: \"CONSILIUM\" }";
    assert_eq!(format!("{:?}", job.expect("a job").from), expected);
}

#[test]
fn every_fault_is_said_and_no_value_is_repeated() {
    let faults = parse(
        "from = \"https://user:canary@pacs/\"\nmodality = [\"cr\"]\nstudy_date = \"canary\"\n\
         keep = [\"PatientName\"]\ntoken = \"canary\"\nlabel = 3\ncertificate = \"c.pem\"\n",
    )
    .expect_err("faults");
    let text = faults.join("\n");
    for key in ["from", "into", "modality", "study_date", "keep", "token", "label", "certificate"] {
        assert!(text.contains(&format!("pull.chest.{key}: ")), "{key}: {text}");
    }
    assert!(!text.contains("canary"), "{text}");
    let whole = parse("from = \"https://pacs/\"\ninto = \"x\"\n").expect_err("a whole archive");
    assert!(whole[0].contains("never a whole archive"), "{whole:?}");
}

#[test]
fn without_encryption_only_this_machine_is_spoken_with() {
    let rest = "called = \"A\"\ninto = \"x\"\nmodality = \"CT\"\n";
    for (from, good) in [
        ("http://127.0.0.1:8042/dicom-web", true),
        ("dicom://localhost:4242", true),
        ("dicom://[::1]:4242", true),
        ("http://10.0.0.1/dicom-web", false),
        ("dicom://pacs:104", false),
        ("https://pacs/?a=b", false),
        ("ftp://pacs/", false),
        ("pacs:104", false),
        ("", false),
    ] {
        let found = parse(&format!("from = \"{from}\"\n{rest}"));
        assert_eq!(found.is_ok(), good, "{from}: {found:?}");
    }
    assert!(parse(&format!("from = \"dicom://pacs\"\ndanger_unencrypted = true\n{rest}")).is_ok());
}

#[test]
fn what_is_on_this_machine_is_reached_straight_and_a_section_has_the_last_word() {
    let url = |text: &str| Proxy::Url(text.to_owned());
    for (network, from, own, expected) in [
        ("auto", "https://pacs/", "", Proxy::Environment),
        ("none", "https://pacs/", "", Proxy::Direct),
        ("http://proxy:3128", "https://pacs/", "", url("http://proxy:3128")),
        ("http://proxy:3128", "http://127.0.0.1:8042/dicom-web", "", Proxy::Direct),
        ("http://proxy:3128", "https://localhost/dicom-web", "", Proxy::Direct),
        ("auto", "http://[::1]:8042/", "", Proxy::Direct),
        ("http://proxy:3128", "https://pacs/", "none", Proxy::Direct),
        ("none", "https://pacs/", "https://other:1", url("https://other:1")),
        ("none", "https://pacs/", "auto", Proxy::Environment),
        ("none", "http://127.0.0.1/", "http://other:1", url("http://other:1")),
    ] {
        let own = if own.is_empty() { String::new() } else { format!("proxy = {own:?}\n") };
        let text = format!(
            "name = \"x\"\nproxy = {network:?}\n[pull]\nfrom = {from:?}\n{own}into = \"/x\"\nmodality = \"CT\"\n"
        );
        assert_eq!(Job::parse(&text).map(|job| job.proxy), Ok(expected), "{text}");
    }
    for wrong in ["socks5://proxy:1", "proxy:1", "http://", "ftp://proxy"] {
        let faults = parse(&format!(
            "from = \"https://pacs/\"\ninto = \"x\"\nmodality = \"CT\"\nproxy = {wrong:?}\n"
        ));
        assert!(faults.is_err_and(|faults| faults[0].contains("proxy: ")), "{wrong}");
    }
}

#[test]
fn a_row_is_an_image_or_a_series_and_a_label_is_short() {
    let rest = "from = \"https://pacs/\"\ninto = \"x\"\nmodality = \"CT\"\n";
    let rows = |text: &str| parse(&format!("{rest}{text}")).map(|job| job.rows);
    assert_eq!(rows(""), Ok(Rows::Image));
    assert_eq!(rows("rows = \"series\""), Ok(Rows::Series));
    assert!(rows("rows = \"study\"").is_err());
    assert!(rows(&format!("label = {:?}", "x".repeat(1024))).is_ok());
    assert!(rows(&format!("label = {:?}", "x".repeat(1025))).is_err());
}

#[test]
fn a_secret_comes_from_a_file_that_nobody_else_may_read() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "canary\n").expect("written");
    let section = format!(
        "from = \"https://pacs/\"\ninto = \"x\"\nmodality = \"CT\"\ntoken_file = {file:?}\n"
    );
    for (mode, good) in [(0o644, false), (0o640, false), (0o600, true), (0o400, true)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("set");
        let found = parse(&section);
        assert_eq!(found.is_ok(), good, "{mode:o}");
        assert!(!format!("{found:?}").contains("canary"));
    }
}

#[test]
fn days_are_compared_as_the_standard_writes_them() {
    for (text, inside, outside) in [
        ("20240229", "20240229", "20240301"),
        ("20240101-20241231", "20240630", "20250101"),
        ("20240101-", "20990101", "20231231"),
        ("-20240101", "19700101", "20240102"),
    ] {
        let dates = Dates::parse(text).expect("dates");
        assert!(dates.contain(inside) && !dates.contain(outside), "{text}");
    }
    for wrong in
        ["", "-", "2024", "20241301", "20240132", "20250101-20240101", "20240101-x", "２０２４0101"]
    {
        assert_eq!(Dates::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn a_list_of_patients_is_read_and_a_bad_row_is_told_by_its_number() {
    let scratch = tempfile::NamedTempFile::new().expect("a scratch file");
    let read = |text: &str| {
        std::fs::write(scratch.path(), text).expect("written");
        Patients::read(scratch.path())
    };
    let patients = read("\u{feff}patient_id,label\n 4711 ,normal\n0815,\n").expect("a list");
    assert_eq!(patients.ids().collect::<Vec<_>>(), ["0815", "4711"]);
    assert_eq!((patients.label("4711"), patients.label("0815")), ("normal", ""));
    assert!(patients.contain("4711") && !patients.contain("471"));
    for (text, expected) in [
        ("id\nx\n", "patient_id"),
        ("patient_id\n", "none"),
        ("patient_id\n4711\ncan*ary\n", "row 3"),
        ("patient_id\n4711\n4711\n", "row 3"),
        ("patient_id,label\n4711\n", "row 2"),
        ("patient_id,label\n4711,\"a\nb\"\n", "row 2"),
        (&format!("patient_id,label\n4711,{}\n", "x".repeat(1025)), "row 2"),
    ] {
        let error = read(text).expect_err("refused");
        assert!(error.contains(expected) && !error.contains("ary\""), "{error}");
    }
}

#[test]
fn the_sample_lacks_nothing_but_its_files() {
    let sample = include_str!("../../../../compose/node.toml");
    let (_, section) = sample.split_once("# [pull.chest]\n").expect("a section");
    let lines: Vec<&str> = section.lines().map(|line| line.trim_start_matches("# ")).collect();
    let faults = parse(&lines.join("\n")).expect_err("files that are not there");
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults.iter().all(|fault| fault.contains("cannot read")), "{faults:?}");
}
