//! Every file of `nifti/expected.csv`, against what nibabel finds in it.

use data_encoding::HEXLOWER;
use hospital_images::nifti::{Stored, is_named_so};
use hospital_images::{Fault, sha256};

use crate::{near, number, shared, table};

#[test]
fn every_nifti_file_gives_the_values_that_nibabel_finds() {
    let Some(folder) = shared("nifti") else { return };
    let mut read = 0;
    for row in table(&folder.join("expected.csv")) {
        let path = &row["path"];
        assert!(is_named_so(path.as_ref()), "{path}");
        let found = Stored::read(&folder.join(path));
        if row["status"] != "ok" {
            assert!(matches!(found, Err(Fault::NotAnImage(_))), "{path}: {found:?}");
            continue;
        }
        let stored = found.unwrap_or_else(|fault| {
            unreachable!("{path}: {fault}");
        });
        let shape: Vec<String> = stored.header.shape.iter().map(ToString::to_string).collect();
        assert_eq!(shape.join("x"), row["shape"], "{path}");
        assert_eq!(
            HEXLOWER.encode(&sha256(&stored.data)),
            row["sha256_raw_le_fortran"],
            "{path}: other voxels"
        );
        let (mut least, mut greatest, mut sum) = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
        let (mut scaled, mut count) = (0.0, 0.0);
        let header = &stored.header;
        stored.each(&mut |value| {
            least = least.min(value);
            greatest = greatest.max(value);
            sum += value;
            scaled += value * header.slope + header.intercept;
            count += 1.0;
        });
        assert!(near(least, number(&row, "raw_min"), 0.0), "{path}: {least}");
        assert!(near(greatest, number(&row, "raw_max"), 0.0), "{path}: {greatest}");
        assert!(near(sum, number(&row, "raw_sum"), 1e-12), "{path}: {sum}");
        if let Some(whole) = stored.whole_sum() {
            assert_eq!(whole.to_string(), row["raw_sum"], "{path}");
        }
        assert!(near(scaled / count, number(&row, "scaled_mean"), 1e-6), "{path}");
        let affine: Vec<f64> =
            row["affine"].split(' ').map(|word| word.parse().expect("a number")).collect();
        for (found, expected) in header.affine.as_flattened().iter().zip(&affine) {
            assert!(near(*found, *expected, 1e-5), "{path}: {found} for {expected}");
        }
        let volume = stored.volume(0).expect("there is a first volume");
        let (mut least, mut greatest) = (f32::INFINITY, f32::NEG_INFINITY);
        for value in &volume.values {
            least = least.min(*value);
            greatest = greatest.max(*value);
        }
        if stored.volumes() == 1 {
            assert!(near(f64::from(least), number(&row, "scaled_min"), 1e-6), "{path}: {least}");
            let expected = number(&row, "scaled_max");
            assert!(near(f64::from(greatest), expected, 1e-6), "{path}: {greatest}");
        }
        assert_eq!(volume.shape.iter().product::<usize>(), volume.values.len());
        read += 1;
    }
    assert!(read > 300, "only {read} files");
}

#[test]
fn the_hippocampus_label_maps_are_whole_numbers_and_lie_on_their_images() {
    let Some(folder) = shared("nifti") else { return };
    let (mut maps, mut pairs) = (0, 0);
    for row in table(&folder.join("expected.csv")) {
        if !row["path"].contains("TrainingSet/labels/") {
            continue;
        }
        let stored = Stored::read(&folder.join(&row["path"])).expect("a sound file");
        let labels = stored.labels(0).expect("whole numbers");
        let greatest = labels.values.iter().max().map(|label| f64::from(*label));
        assert_eq!(greatest, Some(number(&row, "scaled_max")), "{}", row["path"]);
        maps += 1;
        let image = folder.join(row["path"].replace("/labels/", "/images/"));
        if image.is_file() {
            let image = Stored::read(&image).expect("a sound file").volume(0).expect("one");
            assert_eq!(labels.shape, image.shape, "{}", row["path"]);
            let (mask, image) = labels.grid.zip(image.grid).expect("both say where they lie");
            assert!(mask.lies_on(&image, labels.shape), "{} lies elsewhere", row["path"]);
            pairs += 1;
        }
    }
    assert!(maps > 100 && pairs > 100, "only {maps} label maps and {pairs} pairs");
}
