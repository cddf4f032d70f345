//! From the name of a device in a configuration to the device that burn computes on.

use burn::tensor::Device;

/// The device cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("device: expected \"auto\" or \"cpu\", which this build has, found {found:?}")]
pub struct UnknownDevice {
    found: String,
}

/// The device of that name.
///
/// # Errors
/// [`UnknownDevice`] for a name that is not known, or not compiled in.
pub fn device(name: &str) -> Result<Device, UnknownDevice> {
    match name {
        "auto" | "cpu" => Ok(Device::flex()),
        other => Err(UnknownDevice { found: other.chars().take(32).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_there_and_what_is_not_gets_one_clear_line() {
        assert_eq!(device("auto").expect("always there"), device("cpu").expect("always there"));
        let error = device("cuda:0").expect_err("not compiled in");
        assert!(error.to_string().contains("\"cuda:0\""));
    }
}
