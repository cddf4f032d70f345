//! The conversation, from the pipe: rounds, refusals, noise.

use std::path::Path;

use aggregation::architecture::model_bytes;
use aggregation::vector::Accumulator;
use ndarray::{Array2, Array3};
use ndarray_npy::NpzWriter;
use proto::trainer::DataSource;

use super::*;

/// A manifest for two classes and square images; `train` holds the strategy and what it needs.
pub(crate) fn manifest(arch: &str, side: u16, train: &str) -> String {
    format!(
        "name = \"test\"\n[task]\nkind = \"classification\"\nclasses = [\"a\", \"b\"]\n\
         input = {{ channels = 1, height = {side}, width = {side} }}\n\
         preprocess = {{ window = \"full\", mean = 0.5, sd = 0.25 }}\n\
         [model]\narch = \"{arch}\"\n[train]\nrounds = 3\nseed = 5\n{train}\n\
         [privacy]\nmode = \"danger_no_privacy\"\n[cohort]\nquorum = 3\n\
         [evaluate]\nevery = 1\nsplit = \"validation\"\n"
    )
}

/// A private manifest for two classes and images of 8 by 8, on single images.
pub(crate) fn private_manifest(rate: f64, unit: &str) -> String {
    let train = "strategy = \"dp-fedsgd\"\nlearning_rate = 1.0";
    let privacy = format!(
        "mode = \"distributed\"\nepsilon = 8.0\nsampling_rate = {rate:?}\npatients = 24\n\
         solo_epsilon_cap = 1000.0\n{unit}"
    );
    manifest("linear", 8, train)
        .replace("mode = \"danger_no_privacy\"\n", &privacy)
        .replace("every = 1\n", "every = 0\n")
}

const AVERAGED: &str =
    "strategy = \"fedavg\"\nlocal = { epochs = 1, batch_size = 4, learning_rate = 0.1 }";

fn write_data(path: &Path) {
    let mut npz = NpzWriter::new(std::fs::File::create(path).expect("created"));
    for (part, count) in [("train", 12), ("val", 6), ("test", 4)] {
        let pixels = Array3::from_shape_fn((count, 8, 8), |(n, y, x)| {
            u8::try_from((n * 71 + y * 13 + x * 5 + part.len()) % 256).expect("below 256")
        });
        let labels = Array2::from_shape_fn((count, 1), |(n, _)| u8::from(n % 2 == 1));
        npz.add_array(format!("{part}_images"), &pixels).expect("added");
        npz.add_array(format!("{part}_labels"), &labels).expect("added");
    }
    npz.finish().expect("written");
}

fn open_message(folder: &Path) -> Open {
    write_data(&folder.join("data.npz"));
    std::fs::write(folder.join("key"), [9; 32]).expect("written");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    Open {
        manifest_toml: manifest("linear", 8, AVERAGED),
        data: Some(DataSource {
            kind: "npz".to_owned(),
            path: text(&folder.join("data.npz")),
            manifest: String::new(),
        }),
        site: "hospital-1".to_owned(),
        pseudonym_key_file: text(&folder.join("key")),
        sites: 3,
    }
}

/// Plays a whole conversation: what the agent says, then what it is answered.
fn converse(
    said: Vec<to_trainer::Message>,
) -> (Vec<from_trainer::Message>, Result<(), ServeError>) {
    let mut wire = Vec::new();
    for message in said {
        write_frame(&mut wire, &ToTrainer { message: Some(message) }).expect("memory");
    }
    let mut answers = Vec::new();
    let settings = Settings { device: Device::flex(), memory: 1 << 20, cache: None };
    let ended = serve(&mut wire.as_slice(), &mut answers, &settings);
    let mut heard = Vec::new();
    let mut rest = answers.as_slice();
    while let Some(FromTrainer { message }) = read_frame(&mut rest).expect("frames alone") {
        heard.push(message.expect("a message"));
    }
    (heard, ended)
}

fn round(work: Work, model: &[f32]) -> Vec<to_trainer::Message> {
    let bytes = model_bytes(model);
    let work = match work {
        Work::Train => 1,
        Work::TrainAndEvaluate => 2,
        Work::Evaluate => 3,
    };
    let task = Task { round: 1, work, model_bytes: bytes.len() as u64 };
    let parts = bytes.chunks(100).map(|part| to_trainer::Message::Model(part.to_vec().into()));
    std::iter::once(to_trainer::Message::Task(task)).chain(parts).collect()
}

fn update(heard: &[from_trainer::Message]) -> Vec<u8> {
    let parts = heard.iter().filter_map(|message| match message {
        from_trainer::Message::Update(part) => Some(part.clone()),
        from_trainer::Message::Opened(_)
        | from_trainer::Message::Progress(_)
        | from_trainer::Message::Done(_)
        | from_trainer::Message::Failed(_) => None,
    });
    parts.collect::<Vec<_>>().concat()
}

fn failure(message: &from_trainer::Message) -> &str {
    match message {
        from_trainer::Message::Failed(failed) => &failed.message,
        from_trainer::Message::Opened(_)
        | from_trainer::Message::Progress(_)
        | from_trainer::Message::Update(_)
        | from_trainer::Message::Done(_) => unreachable!("expected a failure"),
    }
}

#[test]
fn a_round_ends_in_the_bytes_that_the_studys_format_gives() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let open = open_message(folder.path());
    let study = proto::manifest::parse(&open.manifest_toml).expect("valid");
    let model = study.layout().initial(study.training.seed);
    for work in [Work::Train, Work::TrainAndEvaluate, Work::Evaluate] {
        let mut said = vec![to_trainer::Message::Open(open.clone())];
        said.extend(round(work, &model));
        let (heard, ended) = converse(said.clone());
        ended.expect("a clean end");
        assert!(matches!(heard.last(), Some(from_trainer::Message::Done(_))));
        let Some(from_trainer::Message::Opened(opened)) = heard.first() else {
            unreachable!("opened comes first")
        };
        assert_eq!((opened.training_examples, opened.evaluation_examples), (12, 6));
        assert_eq!(opened.dataset_root.len(), 32);
        let format = VectorFormat::for_work(&study, 3, work).expect("room for three");
        let packed = update(&heard);
        assert_eq!(packed.len(), format.packed_bytes());
        let mut sum = Accumulator::new(&format);
        sum.add(&packed).expect("a whole update");
        let total = sum.finish().expect("one contribution");
        assert_eq!(total.weight, if work.trains() { 12 } else { 0 });
        assert_eq!(total.metrics.map(|m| m.examples), work.evaluates().then_some(6));
        // Again, in another process's place: the same bytes.
        assert_eq!(update(&converse(said).0), packed);
    }
}

#[test]
fn what_cannot_be_done_is_answered_and_the_conversation_goes_on() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let open = open_message(folder.path());
    let model = vec![0.0; 130];
    let mut said = round(Work::Train, &model);
    said.push(to_trainer::Message::Open(Open { sites: 0, ..open.clone() }));
    let manifest_toml = "name = 3".to_owned();
    said.push(to_trainer::Message::Open(Open { manifest_toml, ..open.clone() }));
    let data =
        open.data.clone().map(|data| DataSource { path: "/nowhere/canary.npz".to_owned(), ..data });
    said.push(to_trainer::Message::Open(Open { data, ..open.clone() }));
    said.push(to_trainer::Message::Open(open));
    said.extend(round(Work::Train, &[0.0; 7]));
    said.extend(round(Work::Train, &[f32::NAN; 130]));
    said.push(to_trainer::Message::Task(Task { round: 1, work: 9, model_bytes: 0 }));
    said.extend(round(Work::Train, &model));
    let (heard, ended) = converse(said);
    ended.expect("a clean end");
    assert_eq!(failure(&heard[0]), "no data set is open");
    assert!(failure(&heard[1]).contains("roster"));
    assert!(failure(&heard[2]).contains("manifest"));
    assert!(!failure(&heard[3]).contains("canary"), "{}", failure(&heard[3]));
    assert!(matches!(heard[4], from_trainer::Message::Opened(_)));
    assert!(failure(&heard[5]).contains("expected 520 bytes"), "{}", failure(&heard[5]));
    assert!(matches!(heard[6], from_trainer::Message::Failed(_)));
    assert!(matches!(heard[7], from_trainer::Message::Failed(_)));
    assert!(matches!(heard.last(), Some(from_trainer::Message::Done(_))));
}

/// D-08: a private update is noised lanes, and other ones each time; and where nothing says whose
/// the images are, there is none for patients.
#[test]
fn a_private_round_ends_in_fresh_noise_and_needs_patients() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let open = open_message(folder.path());
    let private = |unit: &str| Open { manifest_toml: private_manifest(0.5, unit), ..open.clone() };
    let images = private("danger_image_level_privacy = true\n");
    let study = proto::manifest::parse(&images.manifest_toml).expect("valid");
    let model = study.layout().initial(study.training.seed);
    let mut said = vec![to_trainer::Message::Open(images)];
    said.extend(round(Work::Train, &model));
    let (heard, ended) = converse(said.clone());
    ended.expect("a clean end");
    let packed = update(&heard);
    let format = VectorFormat::for_work(&study, 3, Work::Train).expect("three sites");
    assert!(format.is_noised());
    assert_eq!(packed.len(), format.packed_bytes());
    assert_ne!(update(&converse(said).0), packed, "the same noise twice");
    let far_fewer = private("danger_image_level_privacy = true\n");
    let manifest_toml = far_fewer.manifest_toml.replace("patients = 24", "patients = 3");
    let open = Open { manifest_toml, ..far_fewer };
    let (heard, _) = converse(vec![to_trainer::Message::Open(open)]);
    let refused = failure(&heard[0]);
    assert!(refused.contains("privacy.patients = 3") && refused.contains("found 12"), "{refused}");
    let (heard, _) = converse(vec![to_trainer::Message::Open(private(""))]);
    assert!(failure(&heard[0]).contains("danger_image_level_privacy"), "{}", failure(&heard[0]));
}

#[test]
fn a_message_out_of_order_ends_the_conversation() {
    let (_, ended) = converse(vec![to_trainer::Message::Model(vec![1].into())]);
    assert!(matches!(ended, Err(ServeError::OutOfOrder { .. })));
    let task = Task { round: 1, work: 1, model_bytes: 8 };
    for parts in [vec![0; 9], Vec::new()] {
        let said = vec![to_trainer::Message::Task(task), to_trainer::Message::Model(parts.into())];
        assert!(matches!(converse(said).1, Err(ServeError::OutOfOrder { .. })));
    }
    // A peer that claims a huge model makes nobody set memory aside, and nothing follows it.
    let task = Task { round: 1, work: 1, model_bytes: u64::MAX };
    assert!(converse(vec![to_trainer::Message::Task(task)]).1.is_err());
}
