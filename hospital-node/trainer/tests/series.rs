//! Rows that name the folder of a DICOM series, or a file of many frames; masks that go with images
//! and volumes; and the cache that both come from again.

use std::fs;
use std::path::Path;

use std::sync::Arc;

use aggregation::study::Study;
use hospital_trainer::dataset::answers::Answer;
use hospital_trainer::dataset::cache::Cache;
use hospital_trainer::dataset::{self, Contents, Look, SiteSecret, Source};
use hospital_trainer::preprocess::Preparation;

fn element(out: &mut Vec<u8>, tag: (u16, u16), vr: &[u8; 2], value: &[u8]) {
    out.extend(tag.0.to_le_bytes());
    out.extend(tag.1.to_le_bytes());
    out.extend(vr);
    let length = u32::try_from(value.len()).expect("short");
    if vr == b"OW" {
        out.extend([0, 0]);
        out.extend(length.to_le_bytes());
    } else {
        out.extend(&length.to_le_bytes()[..2]);
    }
    out.extend(value);
}

/// A text of even length.
fn text(out: &mut Vec<u8>, tag: (u16, u16), vr: &[u8; 2], value: &str) {
    let padded = if value.len().is_multiple_of(2) { value.to_owned() } else { format!("{value} ") };
    element(out, tag, vr, padded.as_bytes());
}

/// Two by two pixels of one value in each frame, at this height in the patient.
fn slice(series: &str, height: i32, values: &[u16]) -> Vec<u8> {
    let mut out = vec![0; 128];
    out.extend(b"DICM");
    element(&mut out, (2, 0x10), b"UI", b"1.2.840.10008.1.2.1\0");
    text(&mut out, (0x20, 0xe), b"UI", series);
    text(&mut out, (0x20, 0x32), b"DS", &format!("0\\0\\{height}"));
    text(&mut out, (0x20, 0x37), b"DS", "1\\0\\0\\0\\1\\0");
    element(&mut out, (0x28, 2), b"US", &1_u16.to_le_bytes());
    text(&mut out, (0x28, 4), b"CS", "MONOCHROME2");
    if values.len() > 1 {
        text(&mut out, (0x28, 8), b"IS", &values.len().to_string());
    }
    for (place, number) in
        [(0x10, 2_u16), (0x11, 2), (0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)]
    {
        element(&mut out, (0x28, place), b"US", &number.to_le_bytes());
    }
    let pixels: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes().repeat(4)).collect();
    element(&mut out, (0x7fe0, 0x10), b"OW", &pixels);
    out
}

fn scanned(folder: &Path, manifest: &str) -> Contents {
    fs::write(folder.join("manifest.csv"), manifest).expect("written");
    let text = |path: &Path| path.to_str().expect("a name of letters").to_owned();
    let source = Source::new("images", &text(folder), &text(&folder.join("manifest.csv")));
    let secret = SiteSecret::new([1; 32]);
    let look = Look { preparation: None, classes: None, secret: &secret, memory: u64::MAX };
    dataset::look(&source.expect("a source"), look, &|_, _| {}).expect("looked at")
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort_unstable();
    all
}

#[test]
fn a_series_is_one_record_whatever_its_files_are_called() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, names) in [("a", ["1", "2", "3"]), ("b", ["9", "8", "7"]), ("c", ["1", "2", "3"])] {
        fs::create_dir(folder.path().join(name)).expect("made");
        for (height, file) in names.into_iter().enumerate() {
            let height = i32::try_from(height).expect("few");
            let value = if name == "c" { 50 } else { 10 };
            let bytes = slice("1.2", height, &[value + u16::try_from(height).expect("few")]);
            fs::write(folder.path().join(name).join(file), bytes).expect("written");
        }
    }
    fs::create_dir(folder.path().join("mixed")).expect("made");
    for (file, series) in [("1", "1.2"), ("2", "1.3")] {
        let bytes = slice(series, file.parse().expect("a number"), &[1]);
        fs::write(folder.path().join("mixed").join(file), bytes).expect("written");
    }
    // What Windows and archives leave is passed over; one slice of a series that is cut off is named.
    for file in ["Thumbs.db", "DICOMDIR", ".hidden"] {
        fs::write(folder.path().join("a").join(file), b"no image").expect("written");
    }
    fs::create_dir(folder.path().join("cut")).expect("made");
    for height in [1, 2, 3] {
        let bytes = slice("1.4", height, &[7]);
        let kept = if height == 2 { bytes.len() - 1 } else { bytes.len() };
        fs::write(folder.path().join(format!("cut/{height}")), &bytes[..kept]).expect("written");
    }
    fs::write(folder.path().join("frames.dcm"), slice("1.2", 0, &[4, 5, 6])).expect("written");
    let manifest = "path,patient_id,label\na,P1,1\nb,P2,1\nc,P3,0\nframes.dcm,P4,0\nmixed,P5,0\n\
                    cut,P6,0\n";
    let contents = scanned(folder.path(), manifest);
    let bad: Vec<_> =
        contents.bad.iter().map(|bad| (bad.name.as_str(), bad.fault.code())).collect();
    let wanted = [("b", "duplicate"), ("mixed", "wrong_shape"), ("cut/2", "truncated")];
    assert_eq!(sorted(bad), sorted(wanted.to_vec()), "b is a again");
    assert_eq!(contents.records.len(), 3);
    assert_eq!(contents.unlisted, 0, "the slices are their folder's");
}

/// A NIfTI-1 file of bytes, its axes two millimetres apart and along the patient's, these the other way.
fn nifti(dims: [i16; 3], backwards: [bool; 3], voxels: &[u8]) -> Vec<u8> {
    nifti_from([0.0; 3], dims, backwards, voxels)
}

/// The same with its first voxel at a place in the patient.
fn nifti_from(first: [f32; 3], dims: [i16; 3], backwards: [bool; 3], voxels: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 352];
    let mut put =
        |place: usize, field: &[u8]| out[place..place + field.len()].copy_from_slice(field);
    put(0, &348_i32.to_le_bytes());
    for (place, number) in [(40, 3), (42, dims[0]), (44, dims[1]), (46, dims[2]), (70, 2), (72, 8)]
    {
        put(place, &i16::to_le_bytes(number));
    }
    put(108, &352_f32.to_le_bytes());
    put(254, &1_i16.to_le_bytes());
    for (axis, backwards) in backwards.into_iter().enumerate() {
        let step = if backwards { -2.0_f32 } else { 2.0 };
        put(280 + 20 * axis, &step.to_le_bytes());
        put(292 + 16 * axis, &first[axis].to_le_bytes());
    }
    put(344, b"n+1\0");
    out.extend(voxels);
    out
}

fn study(arch: &str, sides: &str, preprocess: &str) -> Study {
    let text = format!(
        "name = \"t\"\n[task]\nkind = \"segmentation\"\nclasses = [\"a\", \"b\", \"c\", \"d\"]\n\
         input = {{ channels = 1, {sides} }}\n\
         preprocess = {{ window = \"full\", mean = 0.0, sd = 1.0{preprocess} }}\n\
         [model]\narch = \"{arch}\"\n[train]\nrounds = 1\nstrategy = \"fedsgd\"\n\
         learning_rate = 1.0\n[privacy]\nmode = \"danger_no_privacy\"\n[cohort]\nquorum = 3\n"
    );
    proto::manifest::parse(&text).expect("valid")
}

/// All that a study is shown of a folder, with a cache beside it.
fn prepared(folder: &Path, study: &Study) -> Contents {
    let text = |name: &str| folder.join(name).to_str().expect("a name of letters").to_owned();
    let source = Source::new("images", &text("data"), &text("data/manifest.csv"));
    let cache = Cache::open(&folder.join("cache"), 1 << 30).expect("a folder");
    let preparation = Preparation::new(&study.task).with_cache(Some(Arc::new(cache)));
    let (secret, classes) = (SiteSecret::new([1; 32]), &study.task.classes[..]);
    let (classes, preparation) = (Some(classes), Some(&preparation));
    let look = Look { preparation, classes, secret: &secret, memory: u64::MAX };
    dataset::look(&source.expect("a source"), look, &|_, _| {}).expect("looked at")
}

fn mask_of(answer: &Answer) -> &[u8] {
    let mask = match answer {
        Answer::Mask(mask) => Some(mask),
        Answer::Class(_) | Answer::Labels(_) => None,
    };
    mask.expect("the study is of masks")
}

/// The labels at the corners of a plane of 16 by 16.
fn corners(answer: &Answer) -> [u8; 4] {
    let mask = mask_of(answer);
    [mask[0], mask[15], mask[240], mask[255]]
}

#[test]
fn a_mask_of_one_slice_is_turned_as_its_flat_image_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("made");
    let mut manifest = "path,patient_id,mask\n".to_owned();
    // The image's rows run to the left and its columns to the back, as DICOM counts.
    for (name, backwards) in [("a", [true, true]), ("b", [false, true]), ("c", [false, false])] {
        let value = u16::from(name.as_bytes()[0]);
        fs::write(data.join(format!("{name}.dcm")), slice("1.2", 0, &[value])).expect("written");
        let mask = nifti([2, 2, 1], [backwards[0], backwards[1], false], &[0, 1, 2, 3]);
        fs::write(data.join(format!("{name}.nii")), mask).expect("written");
        manifest += &format!("{name}.dcm,{name},{name}.nii\n");
    }
    // Across the image rather than along it.
    fs::write(data.join("d.dcm"), slice("1.2", 0, &[7])).expect("written");
    fs::write(data.join("d.nii"), nifti([1, 2, 2], [false; 3], &[0, 1, 2, 3])).expect("written");
    fs::write(data.join("manifest.csv"), manifest + "d.dcm,d,d.nii\n").expect("written");
    let contents = prepared(folder.path(), &study("unet2d", "height = 16, width = 16", ""));
    let bad: Vec<_> =
        contents.bad.iter().map(|bad| (bad.name.as_str(), bad.fault.code())).collect();
    assert_eq!(bad, [("d.dcm", "wrong_shape")]);
    let found: Vec<_> = (0..contents.records.len())
        .map(|index| corners(&contents.prepared(index).expect("there").1))
        .collect();
    assert_eq!(found, [[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0]]);
}

#[test]
fn a_mask_that_lies_elsewhere_than_its_volume_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("made");
    let mut manifest = "path,patient_id,mask\n".to_owned();
    for (name, first, backwards) in [
        ("same", [5.0, 6.0, 7.0], [false; 3]),
        ("turned", [11.0, 6.0, 13.0], [true, false, true]),
        ("rounded", [5.9, 6.0, 6.1], [false; 3]),
        ("a-voxel-off", [5.0, 8.0, 7.0], [false; 3]),
        ("mirrored", [5.0, 6.0, 7.0], [true, false, false]),
    ] {
        let value = u8::try_from(manifest.len()).expect("short");
        let image = nifti_from([5.0, 6.0, 7.0], [4; 3], [false; 3], &[value; 64]);
        fs::write(data.join(format!("{name}.nii")), image).expect("written");
        let mask = nifti_from(first, [4; 3], backwards, &[1; 64]);
        fs::write(data.join(format!("{name}-mask.nii")), mask).expect("written");
        manifest += &format!("{name}.nii,{name},{name}-mask.nii\n");
    }
    fs::write(data.join("manifest.csv"), manifest).expect("written");
    let study = study("unet3d", "depth = 16, height = 16, width = 16", "");
    let contents = prepared(folder.path(), &study);
    let bad: Vec<_> =
        contents.bad.iter().map(|bad| (bad.name.as_str(), bad.fault.to_string())).collect();
    let why = "wrong shape: a mask that lies elsewhere than its image".to_owned();
    assert_eq!(bad, [("a-voxel-off.nii", why.clone()), ("mirrored.nii", why)]);
}

#[test]
fn volumes_series_and_masks_come_from_the_cache_until_anything_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir_all(data.join("series")).expect("made");
    for height in 0..2_u16 {
        let bytes = slice("1.2", i32::from(height), &[10 * height]);
        fs::write(data.join(format!("series/{height}")), bytes).expect("written");
    }
    let voxels: Vec<u8> = (0..64).map(|at| 4 * at).collect();
    fs::write(data.join("v.nii"), nifti([4, 4, 4], [false; 3], &voxels)).expect("written");
    let labels: Vec<u8> = (0..64).map(|at| at / 16).collect();
    fs::write(data.join("v-mask.nii"), nifti([4, 4, 4], [false; 3], &labels)).expect("written");
    let labels = nifti([2, 2, 2], [false; 3], &[0, 0, 0, 0, 1, 1, 1, 1]);
    fs::write(data.join("s-mask.nii"), labels).expect("written");
    let manifest = "path,patient_id,mask\nv.nii,1,v-mask.nii\nseries,2,s-mask.nii\n";
    fs::write(data.join("manifest.csv"), manifest).expect("written");
    let study = study("unet3d", "depth = 16, height = 16, width = 16", "");
    let seen = |contents: Contents| -> Vec<_> {
        assert!(contents.bad.is_empty(), "{:?}", contents.bad);
        let records = contents.records.iter().enumerate();
        let seen = records.map(|(index, record)| {
            let (image, answer) = contents.prepared(index).expect("there");
            (record.file, image, answer)
        });
        seen.collect()
    };
    let first = seen(prepared(folder.path(), &study));
    let entries = || -> Vec<_> {
        let listed = fs::read_dir(folder.path().join("cache")).expect("a folder");
        listed.map(|entry| entry.expect("an entry").path()).collect()
    };
    assert_eq!(entries().len(), 2);
    assert_eq!(seen(prepared(folder.path(), &study)), first);
    // They do come from there: what is changed there, with its digest, is what is seen.
    for entry in entries() {
        let mut bytes = fs::read(&entry).expect("an entry");
        let body = bytes.len() - 32;
        bytes[32..36].copy_from_slice(&0.125_f32.to_le_bytes());
        bytes[body - 1] = 2;
        let digest = hospital_images::sha256(&bytes[..body]);
        bytes[body..].copy_from_slice(&digest);
        fs::write(&entry, bytes).expect("written");
    }
    for ((file, image, answer), (known, ..)) in
        seen(prepared(folder.path(), &study)).iter().zip(&first)
    {
        assert_eq!((file, image[0], mask_of(answer).last()), (known, 0.125, Some(&2)));
    }
    // Another mask, another slice: neither is what was kept.
    let labels = nifti([2, 2, 2], [false; 3], &[3; 8]);
    fs::write(data.join("s-mask.nii"), labels).expect("written");
    let changed = seen(prepared(folder.path(), &study));
    assert_eq!(changed[1].2, Answer::Mask(vec![3; 4096]));
    assert_eq!((&changed[1].1, changed[1].0 == first[1].0), (&first[1].1, false));
    fs::write(data.join("series/1"), slice("1.2", 1, &[20])).expect("written");
    assert_ne!(seen(prepared(folder.path(), &study))[1].0, changed[1].0);
}

#[test]
fn volumes_are_resampled_to_the_studys_spacing_with_their_masks() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("made");
    // Eight voxels of two millimetres to a side become sixteen of one.
    let labels: Vec<u8> = (0..512).map(|at| u8::from(at % 8 >= 4)).collect();
    let voxels: Vec<u8> = labels.iter().map(|label| 200 * label).collect();
    fs::write(data.join("v.nii"), nifti([8; 3], [false; 3], &voxels)).expect("written");
    fs::write(data.join("m.nii"), nifti([8; 3], [false; 3], &labels)).expect("written");
    // DICOM slices that do not say how far their pixels are apart.
    fs::write(data.join("d.dcm"), slice("1.2", 0, &[1, 2])).expect("written");
    fs::write(data.join("n.nii"), nifti([2; 3], [false; 3], &[0; 8])).expect("written");
    let manifest = "path,patient_id,mask\nv.nii,1,m.nii\nd.dcm,2,n.nii\n";
    fs::write(data.join("manifest.csv"), manifest).expect("written");
    let sides = "depth = 16, height = 16, width = 16";
    let contents = prepared(folder.path(), &study("unet3d", sides, ", spacing_mm = [1, 1, 2]"));
    let bad: Vec<_> =
        contents.bad.iter().map(|bad| (bad.name.as_str(), bad.fault.to_string())).collect();
    let why =
        "wrong shape: no word on how far its pixels are apart, and the study wants them resampled";
    assert_eq!(bad, [("d.dcm", why.to_owned())]);
    // Across, voxels stay as large: four columns of darkness, four of 0, four of 1, four of darkness.
    let line: Vec<u8> = (0..16).map(|x| u8::from((8..12).contains(&x))).collect();
    let (image, answer) = contents.prepared(0).expect("there");
    assert_eq!(answer, Answer::Mask(line.repeat(256)));
    let line: Vec<f32> = line.into_iter().map(f32::from).collect();
    assert_eq!(image, line.repeat(256));
}
