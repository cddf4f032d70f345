//! A log with three hospitals as witnesses, built as the coordinator builds it.

use serde_json::json;
use transparency::checkpoint::SignedCheckpoint;
use transparency::cosignature::Cosigner;
use transparency::folder::{Disk, Writer};
use transparency::leaf::Leaf;
use transparency::note::Signer;
use transparency::policy::Policy;
use transparency::time::UtcTime;
use transparency::tree::{Head, Leaves, consistency_proof, empty_root, leaf_hash};
use transparency::witness::{Offer, Refusal, Witness};

pub(crate) const ORIGIN: &str = "consilium.example/log";

/// How many witnesses there are.
pub(crate) const WITNESSES: u8 = 3;

pub(crate) fn signer() -> Signer {
    Signer::from_seed(ORIGIN, &[1; 32]).expect("a seed makes a key")
}

pub(crate) fn cosigner(number: u8) -> Cosigner {
    let name = format!("consilium.example/witness/hospital-{number}");
    Cosigner::from_seed(&name, &[10 + number; 32]).expect("a seed makes a key")
}

/// The policy that asks for so many of the three witnesses.
pub(crate) fn policy(threshold: usize) -> Policy {
    let witnesses: Vec<_> =
        (1..=WITNESSES).map(|at| (format!("hospital-{at}"), cosigner(at).key())).collect();
    Policy::threshold(&signer().key(), &witnesses, threshold).expect("three different keys")
}

/// A leaf as the coordinator writes it; `salt` makes another history.
pub(crate) fn leaf(number: u64, salt: &str) -> Vec<u8> {
    let time = UtcTime::from_millis(1_795_000_000_000 + number * 1_000).expect("before 10000");
    let serde_json::Value::Object(data) = json!({
        "study": "ab12", "round": number / 4, "site": format!("hospital-{}", number % 3 + 1),
        "epsilon": 0.125, "salt": salt,
    }) else {
        return Vec::new();
    };
    let kind = if number.is_multiple_of(4) { "round_announced" } else { "round_contribution" };
    Leaf::new(kind, time, data).expect("a small leaf").bytes().to_vec()
}

/// A few bytes that differ from entry to entry.
pub(crate) fn small(number: u64) -> Vec<u8> {
    number.to_be_bytes()[4..].to_vec()
}

/// A log that is written and cosigned step by step.
pub(crate) struct Federation<D> {
    pub(crate) writer: Writer<D>,
    witnesses: Vec<(Witness, Cosigner)>,
}

impl<D: Disk> Federation<D> {
    pub(crate) fn new(disk: D) -> Self {
        let writer = Writer::open(disk, signer(), None).expect("a new log");
        let witnesses =
            (1..=WITNESSES).map(|at| (Witness::new(signer().key()), cosigner(at))).collect();
        Self { writer, witnesses }
    }

    /// A witness has another key from now on.
    pub(crate) fn replace(&mut self, number: usize, cosigner: Cosigner) {
        self.witnesses[number - 1].1 = cosigner;
    }

    /// Appends, lets every witness check and cosign, and publishes.
    pub(crate) fn publish(&mut self, entries: &[Vec<u8>], time: u64) -> SignedCheckpoint {
        self.writer.append(entries).expect("appended");
        let mut signed = self.writer.tip().clone();
        for (witness, cosigner) in &mut self.witnesses {
            let nothing = Head { size: 0, root: empty_root() };
            let latest = witness.latest().map_or(nothing, |signed| signed.checkpoint().head());
            let offer = self.writer.offer(latest).expect("it grew");
            let advance = witness.consider(&offer).expect("it grew");
            let line = witness.cosign(advance, cosigner, time);
            signed = signed.with(&[line]).expect("a few lines");
        }
        self.writer.publish(&signed).expect("published");
        signed
    }
}

/// A log that was published at each of these sizes; what comes back are the checkpoints.
pub(crate) fn build<D: Disk>(
    disk: D,
    sizes: &[u64],
    entry: impl Fn(u64) -> Vec<u8>,
) -> Vec<SignedCheckpoint> {
    let mut federation = Federation::new(disk);
    let mut from = 0;
    sizes
        .iter()
        .map(|&size| {
            let entries: Vec<_> = (from..size).map(&entry).collect();
            from = size;
            federation.publish(&entries, 1_795_000_000 + size)
        })
        .collect()
}

/// A leaf of a log that forks after its 50th.
pub(crate) fn forked(number: u64, branch: &str) -> Vec<u8> {
    leaf(number, if number < 50 { "" } else { branch })
}

/// A log that shows the first witness one branch and the other two another, each published with the
/// cosignatures that it got.
pub(crate) struct Fork {
    /// The 120 entries that the first witness was shown.
    pub(crate) one: SignedCheckpoint,
    /// The 180 that the others were.
    pub(crate) two: SignedCheckpoint,
    /// What the first witness says to those.
    pub(crate) refusal: Refusal,
}

/// Writes both branches.
pub(crate) fn fork<D: Disk>(one: D, two: D) -> Fork {
    let open = |disk| Writer::open(disk, signer(), None).expect("a new log");
    let (mut one, mut two) = (open(one), open(two));
    let mut witnesses: Vec<_> =
        (1..=WITNESSES).map(|at| (Witness::new(signer().key()), cosigner(at))).collect();
    let nothing = Head { size: 0, root: empty_root() };
    let mut show = |writer: &mut Writer<D>, branch: &str, to: u64, shown: &[usize]| {
        let entries: Vec<_> = (writer.head().size..to).map(|at| forked(at, branch)).collect();
        writer.append(&entries).expect("appended");
        let mut signed = writer.tip().clone();
        for at in shown {
            let (witness, cosigner) = &mut witnesses[*at];
            let latest = witness.latest().map_or(nothing, |signed| signed.checkpoint().head());
            let offer = writer.offer(latest).expect("it grew");
            let advance = witness.consider(&offer).expect("it grew");
            signed = signed.with(&[witness.cosign(advance, cosigner, 7)]).expect("a few lines");
        }
        writer.publish(&signed).expect("published");
        signed
    };
    let common = show(&mut one, "", 50, &[0, 1, 2]);
    two.append(&(0..50).map(|at| forked(at, "")).collect::<Vec<_>>()).expect("appended");
    two.publish(&common).expect("the same tree");
    let first = show(&mut one, "one", 120, &[0]);
    let second = show(&mut two, "two", 180, &[1, 2]);
    // The best proof that there is: the other branch's own.
    let leaves: Vec<_> = (0..180).map(|at| leaf_hash(&forked(at, "two"))).collect();
    let proof = consistency_proof(&mut Leaves(&leaves), 120, 180).expect("in memory");
    let offer = Offer { old_size: 120, proof: proof.expect("smaller"), signed: two.tip().clone() };
    let refusal = witnesses[0].0.consider(&offer).expect_err("another branch");
    Fork { one: first, two: second, refusal }
}
