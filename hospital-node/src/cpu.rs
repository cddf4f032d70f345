//! What this program asks of the processor.

use proto::cli::Failure;

/// Whether it encrypts by itself: masks are AES, a gibibyte of it for a model of ten million
/// parameters among ten sites.
#[must_use]
pub(crate) fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let found = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let found = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let found = false;
    found
}

/// Refuses a processor without.
///
/// # Errors
/// When there are none.
pub(crate) fn require_aes(found: bool) -> Result<(), Failure> {
    if found {
        return Ok(());
    }
    Err(Failure::failed("no_aes", "expected a processor with AES instructions, found none")
        .hint("run the node on another machine, or let the virtual machine see them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_aes_is_refused_in_one_line() {
        assert!(require_aes(true).is_ok());
        let failure = require_aes(false).expect_err("refused");
        assert_eq!(failure.code, "no_aes");
        assert!(!failure.message.contains('\n'));
    }
}
