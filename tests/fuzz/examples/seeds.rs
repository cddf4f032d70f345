//! Writes what each body accepts below `tests/fuzz/corpus`, where `cargo fuzz` begins its search:
//!     cargo run --manifest-path tests/fuzz/Cargo.toml --example seeds

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for body in bodies::BODIES {
        let folder = corpus.join(body.name);
        fs::create_dir_all(&folder)?;
        for (number, example) in (body.examples)().into_iter().enumerate() {
            fs::write(folder.join(format!("example-{number}")), example)?;
        }
    }
    Ok(())
}
