//! Batches of one-time slots, which a hospital reads that others have made; and what a program
//! reads from its own disk, which may have been damaged.

use aggregation::architecture::{model_bytes, model_from_bytes};
use aggregation::keys::provision::FIRST_SLOT;
use aggregation::keys::slots::{HeldShares, Kind, OwnSlot, PrekeyBatch};
use aggregation::masking::sharing::{Holder, SecretScalar};
use aggregation::secret::{Secret, SecretBytes};
use aggregation::setup::keyring::Keyring;
use aggregation::strategy::ServerState;

use super::input::Reader;
use super::machines::House;

/// A batch is exactly its bytes, and what it holds can be looked for without harm.
#[must_use]
pub(crate) fn run(data: &[u8]) -> bool {
    let Ok(batch) = PrekeyBatch::decode(data.to_vec()) else { return false };
    assert_eq!(batch.encoded(), data, "a batch has one spelling");
    let secret = SecretScalar::from_wide(&Secret::new([7; 64]));
    let mut slot = batch.scope().first;
    for _ in 0..3 {
        // Whoever makes a batch may commit to any secret, this one too; but then not seal under it
        // without knowing the cipher, which no search does.
        let _committed = batch.check_secret(slot, Kind::Own, &secret);
        assert!(batch.open_escrow(slot, &secret).is_err());
        slot = slot.next();
    }
    true
}

/// Batches of a few slots, and one that a house has made.
#[must_use]
pub(crate) fn examples() -> Vec<Vec<u8>> {
    let house = House::shared();
    let whole = house.batch_of(0).encoded().to_vec();
    // The same with fewer slots: the number is in the header, and the rest follows from it.
    let header = 8 + 32 + 32 + 16 + 8;
    let record = 112 * (house.sites() - 1) + 80;
    let shortened = [1_u32, 2, 5].into_iter().filter_map(|slots| {
        let mut batch = whole.clone();
        batch.get_mut(header..header + 4)?.copy_from_slice(&slots.to_le_bytes());
        let all = usize::try_from(house.batch_of(0).slots()).ok()?.checked_mul(record)?;
        let keep = usize::try_from(slots).ok()?.checked_mul(record)?;
        batch.truncate(batch.len().checked_sub(all)?.checked_add(keep)?);
        Some(batch)
    });
    shortened.collect()
}

/// What is kept between runs comes back as it was, or not at all.
#[must_use]
pub(crate) fn run_state(data: &[u8]) -> bool {
    let mut reader = Reader::new(data);
    let house = House::shared();
    let holder = Holder::new(u16::from(reader.byte()));
    match reader.byte() % 5 {
        0 => {
            let secrets = SecretBytes::new(reader.rest().to_vec());
            let Some(keyring) = Keyring::resume(house.provision(), house.name(0), &secrets) else {
                return false;
            };
            assert_eq!(keyring.secrets(), secrets);
            assert!(keyring.next() >= FIRST_SLOT || !secrets.expose().is_empty());
            true
        }
        1 => {
            let secrets = Secret::new(reader.array());
            let own = holder.and_then(|holder| OwnSlot::resume(holder, &secrets));
            own.is_some_and(|own| own.secrets() == secrets)
        }
        2 => {
            let secrets = Secret::new(reader.array());
            let held = holder.and_then(|holder| HeldShares::resume(holder, &secrets));
            held.is_some_and(|held| held.secrets() == secrets && Some(held.holder()) == holder)
        }
        3 => {
            let rest = reader.rest();
            let Ok(model) = model_from_bytes(rest) else { return false };
            assert_eq!(model_bytes(&model), rest);
            true
        }
        _ => {
            let training = &house.charter().study().training;
            let parameters = house.charter().study().layout().parameters();
            let rest = reader.rest();
            ServerState::from_bytes(training, parameters, rest)
                .is_ok_and(|state| state.to_bytes() == rest)
        }
    }
}

/// One of each kind.
#[must_use]
pub(crate) fn state_examples() -> Vec<Vec<u8>> {
    let house = House::shared();
    let with = |kind: u8, bytes: &[u8]| [&[1, kind], bytes].concat();
    let training = &house.charter().study().training;
    let parameters = house.charter().study().layout().parameters();
    vec![
        with(0, house.keyring_bytes(0)),
        with(1, &[1; 64]),
        with(2, &[0; 64]),
        with(3, &model_bytes(&[0.5, -1.0])),
        with(4, &ServerState::new(training, parameters).to_bytes()),
    ]
}
