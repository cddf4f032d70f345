//! The X-rays: originals as JPEG and PNG of many sizes, and their small grey versions.

use data_encoding::HEXLOWER;
use hospital_images::{Facts, Sum};

use crate::{near, number, shared, table};

#[test]
fn every_original_has_the_pixels_that_pillow_finds() {
    let Some(folder) = shared("xray") else { return };
    let mut other = Vec::new();
    for row in table(&folder.join("expected_originals.csv")) {
        let path = &row["path"];
        let file = path.strip_prefix("xray/").unwrap_or(path);
        let facts = match Facts::of(&folder.join(file)) {
            Ok(facts) => facts,
            Err(fault) => {
                other.push(format!("{path}: {fault}"));
                continue;
            }
        };
        let (min, max, sum) = (number(&row, "min"), number(&row, "max"), number(&row, "sum"));
        let found = match facts.sum {
            Sum::Whole(sum) => sum.to_string().parse::<f64>().expect("a number"),
            Sum::Float(sum) => sum,
        };
        let same = if row["exactness"] == "exact" {
            HEXLOWER.encode(&facts.sha256) == row["sha256_pixels"]
        } else {
            (facts.min - min).abs() <= 2.0
                && (facts.max - max).abs() <= 2.0
                && near(found, sum, 0.002)
        };
        if !same
            || facts.cols.to_string() != row["width"]
            || facts.rows.to_string() != row["height"]
        {
            other
                .push(format!("{path}: {} {} {found} for {min} {max} {sum}", facts.min, facts.max));
        }
    }
    assert!(other.is_empty(), "{other:#?}");
}

#[test]
fn every_small_x_ray_is_the_one_of_its_table() {
    let Some(folder) = shared("xray/derived-128") else { return };
    let mut reader = csv::Reader::from_path(folder.join("labels.csv")).expect("a table");
    let mut read = 0;
    for row in reader.deserialize::<crate::Row>() {
        let row = row.expect("a row of text");
        let facts = Facts::of(&folder.join(&row["file"])).expect("a sound file");
        assert_eq!(HEXLOWER.encode(&facts.sha256), row["pixel_sha256"], "{}", row["file"]);
        assert_eq!((facts.rows, facts.cols, facts.samples), (128, 128, 1));
        read += 1;
    }
    assert!(read > 100, "only {read}");
}
