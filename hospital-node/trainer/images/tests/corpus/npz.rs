use hospital_images::{Facts, Sum};

use super::{number, shared, table};

/// Every array of `medmnist/expected.csv`: shape, type, range, sum and digest.
#[test]
fn every_array_of_the_npz_files_has_the_expected_values() {
    let Some(folder) = shared("medmnist") else { return };
    let rows = table(&folder.join("expected.csv"));
    assert!(!rows.is_empty());
    for row in rows {
        let facts = Facts::of(&folder.join(&row["path"])).expect("a sound file");
        assert_eq!((facts.format, facts.rows, facts.cols, facts.samples), ("npz", 28, 28, 1));
        let images = facts.arrays.iter().filter(|array| array.name.ends_with("_images"));
        assert_eq!(facts.frames, images.map(|array| array.shape[0]).sum::<usize>());
        let array = facts.arrays.iter().find(|array| array.name == row["array"]);
        let array = array.expect("an array of this name");
        let shape: Vec<String> = array.shape.iter().map(usize::to_string).collect();
        assert_eq!((shape.join("x"), array.dtype), (row["shape"].clone(), row["dtype"].as_str()));
        let ends = (number(&row, "min"), number(&row, "max"));
        assert_eq!((array.min, array.max), ends, "{}", row["array"]);
        let sum: i128 = row["sum"].parse().expect("a whole number");
        assert_eq!(array.sum, Sum::Whole(sum));
        let digest = data_encoding::HEXLOWER.encode(&array.sha256);
        assert_eq!(digest, row["sha256_c_order"], "{} of {}", row["array"], row["path"]);
    }
}
