//! Images from the hospital's own archive, by DICOMweb or by C-FIND and C-GET, into a folder that the
//! trainer can read, without the identities in their headers.
//!
//! This is the one program that sees both images and a network, so it does nothing else: it runs when
//! it is asked to, speaks with the archive that this house has named and with nobody else, and opens
//! no port. It does not decode a pixel. What reaches the disk has gone through the allow-list
//! ([`keep`]) first.
//!
//! Reading order: [`job`], [`archive`] with [`web`] and [`dimse`], [`sieve`], [`store`], [`pull`].

pub mod archive;
mod charset;
pub mod dimse;
pub mod fault;
pub mod job;
pub mod keep;
pub mod names;
pub mod pull;
pub mod sieve;
pub mod store;
pub mod trust;
pub mod web;
