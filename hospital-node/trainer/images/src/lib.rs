//! Image files as hospitals have them: bytes in, checked pixels out.
//!
//! A file may come from anybody and say anything. Whatever it claims is compared with our limits
//! and with the bytes that are there before memory is set aside for it, and every way in which a
//! file cannot be used is one [`Fault`]. No header text leaves a reader: what comes out is numbers
//! and our own words.
//!
//! This room knows nothing of studies, patients and training, so that its readers can be tested and
//! fuzzed by themselves.
//!
#![doc = include_str!("../FORMATS.md")]

pub mod dicom;
mod facts;
mod fault;
mod file;
mod image;
mod jpeg;
mod jpeg2000;
mod jpegls;
pub mod nifti;
pub mod npz;
mod numbers;
mod png;
pub mod raster;
mod volume;

pub use dicom::{Picture, Shown};
pub use facts::{ArrayFacts, Facts, Sum, Whole};
pub use fault::{Fault, Limit, Misfit};
pub use file::{MAX_FILE_BYTES, MAX_PIXEL_BYTES, bytes, sha256};
pub use image::Image;
pub use numbers::Datatype;
