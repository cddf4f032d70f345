//! Files of other people's making, too large for a checkout. Tests of other crates have this file too,
//! by its path.

use std::path::{Path, PathBuf};

/// A folder of the shared data: where the environment says, or in `shared/data` beside the checkout or
/// above it. Where it is not at hand, a line says that the test is skipped.
#[expect(clippy::disallowed_methods, reason = "where test data lies is not configuration")]
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub(crate) fn shared(folder: &str) -> Option<PathBuf> {
    let found = match std::env::var_os("CONSILIUM_SHARED_DATA") {
        Some(root) => Some(Path::new(&root).join(folder)),
        None => Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|above| above.join("shared/data").join(folder))
            .find(|path| path.is_dir()),
    };
    let found = found.filter(|path| path.is_dir());
    if found.is_none() {
        eprintln!("skipped: there is no folder {folder} (CONSILIUM_SHARED_DATA names its root)");
    }
    found
}
