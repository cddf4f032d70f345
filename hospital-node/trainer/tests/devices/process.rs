//! The program itself, spoken to as the agent does: confined, and with hardly an environment.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use aggregation::architecture::model_bytes;
use aggregation::evaluation::MetricTally;
use aggregation::message::Work;
use aggregation::vector::{Accumulator, VectorFormat};
use hospital_trainer::backend;
use hospital_trainer::synthetic::{self, Request, generate};
use proto::frames::{parts, read_frame, write_frame};
use proto::trainer::{DataSource, FromTrainer, Open, Task, ToTrainer, from_trainer, to_trainer};

const MANIFEST: &str = "name = \"test\"\n[task]\nkind = \"classification\"\n\
    classes = [\"normal\", \"lesion\"]\ninput = { channels = 1, height = 32, width = 32 }\n\
    [model]\narch = \"cnn-tiny\"\n[train]\nrounds = 3\nstrategy = \"fedavg\"\n\
    local = { epochs = 1, batch_size = 8, learning_rate = 0.05 }\n\
    [privacy]\nmode = \"danger_no_privacy\"\n[cohort]\nquorum = 3\n";

/// Where this machine keeps a driver that is not installed.
#[expect(clippy::disallowed_methods, reason = "how the tests are told of a driver")]
fn driver() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let names = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "LD_LIBRARY_PATH"];
    names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Runs the trainer until it has answered all that was said.
fn serve(device: &str, said: &[u8]) -> Output {
    let mut trainer = Command::new(env!("CARGO_BIN_EXE_hospital-trainer"))
        .args(["serve", "--device", device])
        .env_clear()
        .envs(driver())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built");
    let mut to = trainer.stdin.take().expect("piped");
    let said = said.to_vec();
    // One that ends at once does not listen.
    let saying = std::thread::spawn(move || drop(std::io::Write::write_all(&mut to, &said)));
    let output = trainer.wait_with_output().expect("it ends");
    saying.join().expect("said or not listened to");
    output
}

fn conversation(folder: &Path, model: &[f32]) -> Vec<u8> {
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    std::fs::write(folder.join("key"), [9; 32]).expect("written");
    let open = Open {
        manifest_toml: MANIFEST.to_owned(),
        data: Some(DataSource {
            kind: "images".to_owned(),
            path: text(folder),
            manifest: text(&folder.join(synthetic::MANIFEST)),
        }),
        site: "here".to_owned(),
        pseudonym_key_file: text(&folder.join("key")),
        sites: 3,
    };
    let bytes = model_bytes(model);
    let task = Task { round: 1, work: 2, model_bytes: bytes.len() as u64 };
    let mut said = vec![to_trainer::Message::Open(open), to_trainer::Message::Task(task)];
    said.extend(parts(bytes).map(to_trainer::Message::Model));
    let mut wire = Vec::new();
    for message in said {
        write_frame(&mut wire, &ToTrainer { message: Some(message) }).expect("memory");
    }
    wire
}

/// What a round gave: the mean update and how well the offered model did.
fn read(output: &Output) -> (Vec<f64>, MetricTally) {
    let mut packed = Vec::new();
    let mut rest = output.stdout.as_slice();
    while let Some(FromTrainer { message }) = read_frame(&mut rest).expect("frames alone") {
        match message.expect("a message") {
            from_trainer::Message::Update(part) => packed.extend_from_slice(&part),
            from_trainer::Message::Failed(failed) => unreachable!("{}", failed.message),
            from_trainer::Message::Opened(_)
            | from_trainer::Message::Progress(_)
            | from_trainer::Message::Done(_) => {}
        }
    }
    let study = proto::manifest::parse(MANIFEST).expect("valid");
    let format = VectorFormat::for_work(&study, 3, Work::TrainAndEvaluate).expect("three sites");
    let mut sum = Accumulator::new(&format);
    sum.add(&packed).expect("a whole update");
    let total = sum.finish().expect("one contribution");
    (total.update, total.metrics.expect("evaluated"))
}

#[test]
fn a_confined_trainer_plays_a_round_on_other_devices_as_on_the_cpu() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let request = Request { sites: 5, site: 1, patients: 24, seed: 4, size: 48 };
    generate(request, folder.path()).expect("generated");
    let study = proto::manifest::parse(MANIFEST).expect("valid");
    let said = conversation(folder.path(), &study.layout().initial(5));
    let (expected, metrics) = read(&serve("cpu", &said));
    assert_eq!(read(&serve("auto", &said)).0.len(), expected.len());
    for (name, _, within) in super::devices() {
        let output = serve(name, &said);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (found, of_found) = read(&output);
        let apart = super::apart(&found, &expected);
        eprintln!("{name}, a round of the program: {apart:.1e}");
        assert!(apart < 10.0 * within, "{name}: the update is {apart} off");
        assert_eq!(of_found.examples, metrics.examples);
        let (ours, cpus) = (of_found.loss().expect("scored"), metrics.loss().expect("scored"));
        assert!((ours / cpus - 1.0).abs() < within, "{name}: a loss of {ours}, not {cpus}");
    }
}

#[test]
fn a_device_that_cannot_be_had_ends_the_program_with_one_line() {
    let missing = ["wgpu", "cuda:0", "cuda:255", "abacus"];
    for name in missing.into_iter().filter(|name| backend::device(name).is_err()) {
        let output = serve(name, &[]);
        assert_eq!(output.status.code(), Some(4), "{name}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.lines().count() == 1 && said.contains(name), "{said}");
        assert!(output.stdout.is_empty());
    }
    // Without a driver: the libraries of Vulkan may be there or not.
    let mut alone = Command::new(env!("CARGO_BIN_EXE_hospital-trainer"));
    alone.args(["serve", "--device", "wgpu"]).env_clear().env("VK_DRIVER_FILES", "/nowhere");
    alone.env("VK_ICD_FILENAMES", "/nowhere");
    let output = alone.stdin(Stdio::null()).output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(4) && said.lines().count() == 1, "{said}");
}
