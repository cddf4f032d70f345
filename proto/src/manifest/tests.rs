use super::*;

const EXAMPLE: &str = r#"
name = "chest-pneumonia"
[task]
kind = "classification"
classes = ["normal", "pneumonia"]
input = { channels = 1, height = 64, width = 64 }
[model]
arch = "cnn-small"
[train]
rounds = 20
strategy = "fedavg"
local = { epochs = 1, batch_size = 32, optimizer = "adam", learning_rate = 1e-3 }
[privacy]
mode = "danger_no_privacy"
[cohort]
quorum = 4
round_deadline = "120s"
[evaluate]
every = 1
split = "test"
metrics = ["auroc", "accuracy"]
"#;

fn keys(text: &str) -> Vec<String> {
    let faults = parse(text).expect_err("faulty");
    faults.0.into_iter().map(|fault| fault.key).collect()
}

#[test]
fn a_manifest_reads_as_the_study_it_describes() {
    let study = parse(EXAMPLE).expect("valid");
    assert_eq!(study.training.rounds, 20);
    assert_eq!(study.cohort.quorum, 4);
    assert_eq!(study.training.local.optimizer, LocalOptimizer::Adam);
    assert_eq!(study.training.optimizer, ServerOptimizer::Sgd);
    assert_eq!(study.evaluation.split, Split::Test);
}

#[test]
fn layout_comments_and_the_order_of_sites_do_not_change_the_digest() {
    let digest = |text: &str| parse(text).expect("valid").digest();
    let with = |sites: &str| {
        EXAMPLE.replace("quorum = 4", &format!("quorum = 3\nsites = [{sites}] # whoever"))
    };
    assert_eq!(digest(&with("\"a\", \"b\", \"c\"")), digest(&with("\"c\",\"a\",  \"b\"")));
    assert_ne!(digest(&with("\"a\", \"b\", \"c\"")), digest(&with("\"a\", \"b\", \"d\"")));
}

#[test]
fn every_fault_is_in_one_report() {
    let text = EXAMPLE
        .replace("rounds = 20", "rounds = -1\nround = 3")
        .replace("cnn-small", "resnet9000")
        .replace("quorum = 4", "quorum = \"all\"")
        .replace("\"auroc\",", "\"dice\",");
    let keys = keys(&text);
    for key in ["train.rounds", "train.round", "model.arch", "cohort.quorum", "evaluate.metrics"] {
        assert!(keys.iter().any(|found| found == key), "{key} is missing in {keys:?}");
    }
}

#[test]
fn a_quorum_of_zero_and_a_model_that_does_not_fit_its_input_are_faults() {
    assert!(keys(&EXAMPLE.replace("quorum = 4", "quorum = 0")).contains(&"cohort.quorum".into()));
    let small = EXAMPLE.replace("height = 64", "height = 4");
    assert!(keys(&small).contains(&"task.input.height".into()));
}

#[test]
fn each_kind_of_task_has_its_models_its_inputs_and_its_metrics() {
    let several = EXAMPLE.replace("\"classification\"", "\"multi-label\"");
    let several = several.replace("[model]", "class_weights = [1, 2.5]\n[model]");
    let study = parse(&several).expect("valid");
    assert_eq!(study.task.kind, TaskKind::MultiLabel);
    assert_eq!(study.task.class_weights, [1.0, 2.5]);
    let masks = EXAMPLE
        .replace("\"classification\"", "\"segmentation\"")
        .replace("cnn-small", "unet3d")
        .replace("[\"auroc\", \"accuracy\"]", "[\"dice\", \"hausdorff95\"]");
    assert_eq!(keys(&masks), ["task.input.depth"], "images have no depth");
    let deep = masks.replace("height = 64", "depth = 32, height = 64");
    assert_eq!(parse(&deep).expect("valid").task.input.depth, 32);
    assert_eq!(keys(&deep.replace("unet3d", "resnet18-gn")), ["model.arch", "task.input.depth"]);
    assert_eq!(keys(&deep.replace("\"dice\"", "\"auroc\"")), ["evaluate.metrics"]);
}

#[test]
fn spacing_has_a_number_for_each_side_and_brings_its_fit() {
    let with = |sides: &str, preprocess: &str| {
        let model = format!("preprocess = {{ {preprocess} }}\n[model]");
        EXAMPLE.replace("height = 64, width = 64", sides).replace("[model]", &model)
    };
    let flat = with("height = 64, width = 64", "spacing_mm = [0.5, 0.25]");
    let preprocess = parse(&flat).expect("valid").task.preprocess;
    assert_eq!((preprocess.spacing, preprocess.fit), (Some([1.0, 0.5, 0.25]), Fit::Centre));
    let middle = with("height = 64, width = 64", "fit = \"centre\"");
    assert_eq!(parse(&middle).expect("valid").task.preprocess.spacing, None);
    let deep = "depth = 32, height = 64, width = 64";
    let deep = |preprocess| with(deep, preprocess).replace("cnn-small", "linear");
    let preprocess = parse(&deep("spacing_mm = [2, 1, 1]")).expect("valid").task.preprocess;
    assert_eq!((preprocess.spacing, preprocess.fit), (Some([2.0, 1.0, 1.0]), Fit::Centre));
    let key = "task.preprocess.spacing_mm";
    assert_eq!(keys(&deep("spacing_mm = [1, 1]")), [key]);
    assert_eq!(keys(&deep("spacing_mm = [0, 1, 1]")), [key]);
    assert_eq!(keys(&with("height = 64, width = 64", "spacing_mm = [1, 1, 1]")), [key]);
    let stretched = "spacing_mm = [2, 1, 1], fit = \"stretch\"";
    assert_eq!(keys(&deep(stretched)), ["task.preprocess.fit"]);
}

#[test]
fn augmentation_is_named_piece_by_piece_or_as_what_is_usual() {
    let augment = |written: &str| {
        let local = format!("local = {{ augment = {written}, epochs = 1,");
        EXAMPLE.replace("local = { epochs = 1,", &local)
    };
    let read = |written| parse(&augment(written)).expect("valid").training.local.augment;
    assert_eq!(parse(EXAMPLE).expect("valid").training.local.augment, Augment::NONE);
    assert_eq!((read("false"), read("true")), (Augment::NONE, Augment::USUAL));
    assert_eq!(read("{ flip = true, shift = 0.08 }"), Augment::USUAL);
    let turned = Augment { rotate_degrees: 10.0, intensity_scale: 0.1, ..Augment::NONE };
    assert_eq!(read("{ rotate_degrees = 10, intensity_scale = 0.1 }"), turned);
    assert_eq!(keys(&augment("\"much\"")), ["train.local.augment"]);
    assert_eq!(keys(&augment("{ zoom = 2 }")), ["train.local.augment.zoom"]);
    assert_eq!(keys(&augment("{ shift = 0.9 }")), ["train.local.augment.shift"]);
}

#[test]
fn what_is_missing_is_named_and_what_is_no_toml_says_where() {
    let missing = keys("name = \"x\"");
    for key in ["task.kind", "model.arch", "train.rounds", "privacy.mode", "cohort.quorum"] {
        assert!(missing.iter().any(|found| found == key), "{key} is missing in {missing:?}");
    }
    let faults = parse("name = \n").expect_err("no value");
    assert!(faults.to_string().contains("line 1"), "{faults}");
    assert!(parse(&"#".repeat(MAX_MANIFEST + 1)).is_err());
}

#[test]
fn privacy_has_no_default() {
    let text = EXAMPLE.replace("mode = \"danger_no_privacy\"", "");
    assert_eq!(keys(&text), ["privacy.mode"]);
}

/// The example, private, with these lines in `[privacy]` and after it.
fn private(privacy: &str, evaluate: &str) -> String {
    let (train, _) = EXAMPLE.split_once("[train]").expect("a section");
    format!(
        "{train}[train]\nrounds = 20\nstrategy = \"dp-fedsgd\"\nlearning_rate = 0.5\n\
             weight_average = 0.9\n[privacy]\n{privacy}\n[cohort]\nquorum = 4\n{evaluate}"
    )
}

const RULES: &str = "mode = \"distributed\"\nepsilon = 3.0\nsampling_rate = 0.05\npatients = 4000";

#[test]
fn a_private_study_reads_as_written() {
    let study = parse(&private(RULES, "")).expect("valid");
    let rules = study.privacy.rules().expect("private");
    assert_eq!((rules.mode, rules.unit), (Mode::Distributed, Unit::Patient));
    assert_eq!((rules.accountant, rules.patients, rules.views), (Accountant::Rdp, 4_000, 1));
    assert!((rules.batch() - 200.0).abs() < 1e-9);
    assert!(!study.is_scored(), "no scores without a word about what they cost");
    assert_eq!(study.last_round().get(), 20);
    let scored = private(RULES, "[evaluate]\nevery = 5\ndanger_exact_metrics = true");
    let scored = parse(&scored).expect("valid");
    assert_eq!((scored.is_scored(), scored.last_round().get()), (true, 21));
}

#[test]
fn what_does_not_go_with_privacy_is_a_fault() {
    let fault = |privacy: &str, evaluate: &str| keys(&private(privacy, evaluate));
    assert_eq!(fault(RULES, "[evaluate]\nevery = 5"), ["evaluate.danger_exact_metrics"]);
    assert_eq!(fault("mode = \"danger_no_privacy\"", ""), ["train.strategy"]);
    let missing = fault("mode = \"silo\"", "");
    assert_eq!(missing, ["privacy.epsilon", "privacy.sampling_rate", "privacy.patients"]);
    assert_eq!(fault(&RULES.replace("3.0", "-1"), ""), ["privacy.epsilon"]);
    assert_eq!(fault(&RULES.replace("3.0", "nan"), ""), ["privacy.epsilon"]);
    assert_eq!(fault(&RULES.replace("0.05", "0"), ""), ["privacy.sampling_rate"]);
    assert_eq!(fault(&format!("{RULES}\nclipping_norm = 0"), ""), ["privacy.clipping_norm"]);
    assert_eq!(fault(&format!("{RULES}\nnoise = 0"), ""), ["privacy.noise"]);
    let batch = private(RULES, "").replace("[privacy]", "local = { batch_size = 9 }\n[privacy]");
    assert_eq!(keys(&batch), ["train.local.batch_size"]);
}
