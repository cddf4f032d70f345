//! Who is whose neighbour: who masks with whom, and who holds whose shares (PROTOCOL M-24).
//!
//! Up to 128 hospitals everyone is everyone's neighbour. Above, the graph is a Harary graph of
//! even degree k: the hospitals sit on a ring in random order and each is a neighbour of the k / 2
//! on either side; [`design`] finds k and the share threshold. A hospital holds a share of its own
//! secret too, so a neighbourhood has k + 1 holders.
//!
//! The order on the ring is drawn from nonces of all hospitals, each committed to before the
//! others are known (PROTOCOL M-25), so that nobody, the coordinator included, can place colluders
//! around a victim. Nonces are revealed by themselves, after all announcements and before the
//! first prekey batch, which can only be made once neighbours are known.
//!
//! Source: [BBG+20] (random k-regular graphs).
//!
//! [BBG+20]: https://doi.org/10.1145/3372297.3417885

pub mod design;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Digest, HospitalId, StudyId};
use crate::keys::thresholds::Thresholds;
use crate::masking::sharing::Holder;
use crate::transcript::Transcript;
use design::{Design, Infeasible};

/// The most hospitals of whom each is everyone's neighbour.
pub const MAX_COMPLETE: u16 = 128;

/// A hospital's contribution to the drawing of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphNonce([u8; 32]);

impl GraphNonce {
    /// Takes 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for when it is revealed.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the hospital announces before the nonce is revealed.
    #[must_use]
    pub fn commitment(&self, study: StudyId, charter: Digest, hospital: &HospitalId) -> Digest {
        Transcript::new("consilium/graph-nonce/1")
            .bytes(study.digest().as_bytes())
            .bytes(charter.as_bytes())
            .text(hospital.as_str())
            .bytes(&self.0)
            .finish()
    }
}

/// What the graph is drawn from: all nonces together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphSeed(Digest);

impl GraphSeed {
    /// Joins the nonces of all hospitals of a charter, each with what it committed to.
    ///
    /// # Errors
    /// When a nonce is missing, too many, or another than was committed to (PROTOCOL M-25).
    pub fn from_nonces(
        study: StudyId,
        charter: Digest,
        commitments: &BTreeMap<HospitalId, Digest>,
        nonces: &BTreeMap<HospitalId, GraphNonce>,
    ) -> Result<Self, GraphRefused> {
        let mut transcript = Transcript::new("consilium/graph-seed/1");
        transcript.bytes(study.digest().as_bytes()).bytes(charter.as_bytes());
        transcript.list(commitments.len());
        for (hospital, commitment) in commitments {
            let nonce = nonces
                .get(hospital)
                .ok_or_else(|| GraphRefused::NotRevealed { hospital: hospital.clone() })?;
            if nonce.commitment(study, charter, hospital) != *commitment {
                return Err(GraphRefused::OtherNonce { hospital: hospital.clone() });
            }
            transcript.text(hospital.as_str()).bytes(nonce.as_bytes());
        }
        match nonces.keys().find(|hospital| !commitments.contains_key(hospital)) {
            Some(stranger) => Err(GraphRefused::Stranger { hospital: stranger.clone() }),
            None => Ok(Self(transcript.finish())),
        }
    }
}

/// Why there is no graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphRefused {
    /// A nonce is missing.
    #[error("{hospital} has not revealed its nonce for the graph")]
    NotRevealed {
        /// Whose.
        hospital: HospitalId,
    },
    /// A nonce that was not committed to.
    #[error("{hospital} revealed another nonce for the graph than it committed to")]
    OtherNonce {
        /// Whose.
        hospital: HospitalId,
    },
    /// A nonce of someone who announced nothing.
    #[error("{hospital} revealed a nonce for the graph and is not on the roster")]
    Stranger {
        /// Whose.
        hospital: HospitalId,
    },
    /// The thresholds are for another number of hospitals.
    #[error("the thresholds are for {expected} hospitals; found {found}")]
    OtherCount {
        /// The number that the thresholds are for.
        expected: u16,
        /// The number found.
        found: usize,
    },
    /// No k-regular graph is both private and sturdy enough.
    #[error(transparent)]
    Infeasible(#[from] Infeasible),
}

impl GraphRefused {
    /// The rule that was broken.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::NotRevealed { .. } | Self::OtherNonce { .. } | Self::Stranger { .. } => "M-25",
            Self::OtherCount { .. } | Self::Infeasible(_) => "M-24",
        }
    }
}

/// A hospital and the number under which it holds shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub hospital: HospitalId,
    /// Its place on the roster, counted from 1.
    pub holder: Holder,
}

/// A hospital, its neighbours, and how many shares its secrets take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbourhood {
    owner: Member,
    neighbours: Vec<Member>,
    threshold: u16,
}

impl Neighbourhood {
    /// Whose it is.
    #[must_use]
    pub const fn owner(&self) -> &Member {
        &self.owner
    }

    /// The others, in the order of their names.
    #[must_use]
    pub fn neighbours(&self) -> &[Member] {
        &self.neighbours
    }

    /// Shares that recover one of the owner's secrets.
    #[must_use]
    pub const fn threshold(&self) -> u16 {
        self.threshold
    }

    /// Where a neighbour stands among the neighbours.
    #[must_use]
    pub fn position(&self, neighbour: &HospitalId) -> Option<usize> {
        self.neighbours.binary_search_by(|member| member.hospital.cmp(neighbour)).ok()
    }
}

/// The hospitals of a charter and who is whose neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    members: Vec<Member>,
    shape: Shape,
    threshold: u16,
    digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    Complete,
    /// `ring[seat]` is the member who sits there, `seats[member]` where it sits.
    Regular {
        degree: usize,
        ring: Vec<u16>,
        seats: Vec<u16>,
    },
}

impl Graph {
    /// The graph of these hospitals. It allows for as many missing ones as a smallest final set
    /// leaves out, so that hospitals that are never ready are counted among the dropped.
    ///
    /// # Errors
    /// When the thresholds are for another number of hospitals, or no degree will do (PROTOCOL
    /// M-24).
    pub fn new(
        sites: &BTreeSet<HospitalId>,
        thresholds: &Thresholds,
        seed: &GraphSeed,
    ) -> Result<Self, GraphRefused> {
        let provisioned = thresholds.provisioned();
        if sites.len() != usize::from(provisioned) {
            return Err(GraphRefused::OtherCount { expected: provisioned, found: sites.len() });
        }
        let holders = (1..=provisioned).filter_map(Holder::new);
        let members: Vec<Member> = (sites.iter().cloned().zip(holders))
            .map(|(hospital, holder)| Member { hospital, holder })
            .collect();
        let (shape, threshold) = if provisioned <= MAX_COMPLETE {
            (Shape::Complete, thresholds.shares())
        } else {
            let missing = provisioned - thresholds.least();
            let design = Design::find(provisioned, thresholds.colluding(), missing)?;
            let (ring, seats) = draw(provisioned, seed);
            let shape = Shape::Regular { degree: design.degree().into(), ring, seats };
            (shape, design.threshold())
        };
        let digest = digest(&members, &shape, threshold);
        Ok(Self { members, shape, threshold, digest })
    }

    /// Everyone, in the order of their names.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Shares that recover a secret.
    #[must_use]
    pub const fn threshold(&self) -> u16 {
        self.threshold
    }

    /// What stands for the graph in the context of every mask.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// A hospital's neighbourhood, if it is on the roster.
    #[must_use]
    pub fn neighbourhood(&self, hospital: &HospitalId) -> Option<Neighbourhood> {
        let at = self.members.binary_search_by(|member| member.hospital.cmp(hospital)).ok()?;
        let mut others: Vec<usize> = match &self.shape {
            Shape::Complete => (0..self.members.len()).filter(|other| *other != at).collect(),
            Shape::Regular { degree, ring, seats } => {
                let seat = usize::from(*seats.get(at)?);
                let around = (1..=degree / 2).flat_map(|d| [seat + d, seat + ring.len() - d]);
                around.filter_map(|s| ring.get(s % ring.len())).map(|m| (*m).into()).collect()
            }
        };
        others.sort_unstable();
        Some(Neighbourhood {
            owner: self.members.get(at)?.clone(),
            neighbours: others
                .iter()
                .filter_map(|other| self.members.get(*other))
                .cloned()
                .collect(),
            threshold: self.threshold,
        })
    }
}

fn digest(members: &[Member], shape: &Shape, threshold: u16) -> Digest {
    let mut transcript = Transcript::new("consilium/graph/1");
    transcript.list(members.len());
    for member in members {
        transcript.text(member.hospital.as_str());
    }
    transcript.u32(threshold.into());
    match shape {
        Shape::Complete => transcript.text("complete"),
        Shape::Regular { degree, ring, .. } => {
            transcript.text("regular").list(*degree).list(ring.len());
            ring.iter().fold(&mut transcript, |t, member| t.u32((*member).into()))
        }
    };
    transcript.finish()
}

/// Draws who sits where, every order being equally likely (Fisher and Yates), and the inverse.
fn draw(count: u16, seed: &GraphSeed) -> (Vec<u16>, Vec<u16>) {
    let mut random = Uniform::new(seed);
    let mut ring: Vec<u16> = (0..count).collect();
    for last in (1..count).rev() {
        let other = random.up_to(last);
        ring.swap(last.into(), other.into());
    }
    let mut seats = vec![0; count.into()];
    for (seat, member) in (0..count).zip(&ring) {
        if let Some(of_member) = seats.get_mut(usize::from(*member)) {
            *of_member = seat;
        }
    }
    (ring, seats)
}

/// Uniform numbers from a seed: BLAKE3's output stream in words of 32 bits, little-endian.
struct Uniform(blake3::OutputReader);

impl Uniform {
    fn new(seed: &GraphSeed) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("consilium/graph-order/1");
        hasher.update(seed.0.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// From 0 to `last`, each equally likely: a word beyond the last whole multiple is thrown away.
    fn up_to(&mut self, last: u16) -> u16 {
        let choices = u32::from(last) + 1;
        let whole = u32::MAX - u32::MAX % choices;
        loop {
            let mut word = [0; 4];
            self.0.fill(&mut word);
            let word = u32::from_le_bytes(word);
            if word < whole
                && let Ok(choice) = u16::try_from(word % choices)
            {
                return choice;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(count: u32) -> BTreeSet<HospitalId> {
        (0..count).map(|i| HospitalId::new(&format!("h-{i:05}")).expect("a name")).collect()
    }

    fn seed(byte: u8) -> GraphSeed {
        GraphSeed(Digest::new([byte; 32]))
    }

    fn drawn(n: u16, t: u16, m: u16, byte: u8) -> Graph {
        let thresholds = Thresholds::new(n, t, m).expect("the thresholds hold together");
        Graph::new(&sites(n.into()), &thresholds, &seed(byte)).expect("there is a graph")
    }

    fn all(graph: &Graph) -> Vec<Neighbourhood> {
        let of = |member: &Member| graph.neighbourhood(&member.hospital);
        graph.members().iter().map(|m| of(m).expect("a member has a neighbourhood")).collect()
    }

    #[test]
    fn up_to_128_hospitals_everyone_is_everyones_neighbour() {
        for n in [3, 10, 128] {
            let graph = drawn(n, 1, n, 1);
            assert_eq!(graph.threshold(), n.div_ceil(2) + 1);
            for hood in all(&graph) {
                assert_eq!(hood.neighbours().len(), usize::from(n) - 1);
                assert_eq!(hood.position(&hood.owner().hospital), None);
                assert_eq!(hood.threshold(), graph.threshold());
            }
            // The seed is of no use there.
            assert_eq!(graph, drawn(n, 1, n, 2));
        }
    }

    /// M-24: regular, symmetric, connected, without loops, and of the degree that was found.
    #[test]
    fn above_128_hospitals_the_graph_is_regular_and_random() {
        for (n, t, m) in [(129, 12, 117), (300, 60, 240), (1_000, 100, 900)] {
            let graph = drawn(n, t, m, 1);
            let design = Design::find(n, t, n - m).expect("there is a design");
            let hoods = all(&graph);
            for hood in &hoods {
                assert_eq!(hood.neighbours().len(), usize::from(design.degree()));
                assert_eq!(hood.threshold(), design.threshold());
                let names: BTreeSet<_> = hood.neighbours().iter().map(|m| &m.hospital).collect();
                assert_eq!(names.len(), hood.neighbours().len());
                assert!(!names.contains(&hood.owner().hospital));
                for (at, neighbour) in hood.neighbours().iter().enumerate() {
                    assert_eq!(hood.position(&neighbour.hospital), Some(at));
                    let back = &hoods[usize::from(neighbour.holder.get()) - 1];
                    assert_eq!(back.owner(), neighbour);
                    assert!(back.position(&hood.owner().hospital).is_some());
                }
            }
            let mut reached = BTreeSet::from([1]);
            let mut open = vec![1];
            while let Some(holder) = open.pop() {
                let next = hoods[usize::from(holder - 1)].neighbours().iter();
                open.extend(next.map(|m| m.holder.get()).filter(|h| reached.insert(*h)));
            }
            assert_eq!(reached.len(), usize::from(n));
            assert_ne!(graph.digest(), drawn(n, t, m, 2).digest());
        }
    }

    #[test]
    fn every_order_on_the_ring_is_about_equally_likely() {
        // 24 orders of 4, 2,400 draws from as many seeds: chi-square with 23 degrees of freedom is
        // above 58 once in 10,000 times, and the seeds do not change.
        let mut counts: BTreeMap<Vec<u16>, u32> = BTreeMap::new();
        for number in 0..2_400_u32 {
            let seed = GraphSeed(Digest::sha256(&number.to_le_bytes()));
            let (ring, seats) = draw(4, &seed);
            assert!((0..4_u16).all(|m| ring[usize::from(seats[usize::from(m)])] == m));
            *counts.entry(ring).or_default() += 1;
        }
        assert_eq!(counts.len(), 24);
        let chi: i64 = counts.values().map(|c| (i64::from(*c) - 100).pow(2)).sum();
        assert!(chi / 100 < 58, "{chi}");
    }

    /// M-25
    #[test]
    fn a_nonce_that_was_not_committed_to_is_refused() {
        let study = StudyId::new(Digest::sha256(b"study"));
        let charter = Digest::sha256(b"charter");
        let nonces: BTreeMap<_, _> =
            sites(3).into_iter().zip(1..).map(|(h, i)| (h, GraphNonce::new([i; 32]))).collect();
        let commit =
            |(h, n): (&HospitalId, &GraphNonce)| (h.clone(), n.commitment(study, charter, h));
        let commitments: BTreeMap<_, _> = nonces.iter().map(commit).collect();
        let join = |nonces: &_| GraphSeed::from_nonces(study, charter, &commitments, nonces);
        let honest = join(&nonces).expect("all nonces are as committed");
        let victim = nonces.keys().next().expect("there are three").clone();

        let mut changed = nonces.clone();
        changed.insert(victim.clone(), GraphNonce::new([9; 32]));
        assert_eq!(join(&changed), Err(GraphRefused::OtherNonce { hospital: victim.clone() }));
        let mut missing = nonces.clone();
        missing.remove(&victim);
        assert_eq!(join(&missing), Err(GraphRefused::NotRevealed { hospital: victim.clone() }));
        let mut more = nonces.clone();
        let stranger = HospitalId::new("stranger").expect("a name");
        more.insert(stranger.clone(), GraphNonce::new([9; 32]));
        assert_eq!(join(&more), Err(GraphRefused::Stranger { hospital: stranger }));

        // Each nonce counts: with another one, honestly committed to, the seed is another.
        let recommitted: BTreeMap<_, _> = changed.iter().map(commit).collect();
        let other = GraphSeed::from_nonces(study, charter, &recommitted, &changed);
        assert!(other.is_ok_and(|other| other != honest));
    }

    #[test]
    fn thresholds_for_another_number_of_hospitals_are_refused() {
        let thresholds = Thresholds::new(5, 1, 4).expect("the thresholds hold together");
        let refused = Graph::new(&sites(4), &thresholds, &seed(1)).map_err(|e| e.rule());
        assert_eq!(refused.err(), Some("M-24"));
        assert_eq!(drawn(5, 1, 4, 1).neighbourhood(&HospitalId::new("x").expect("a name")), None);
    }
}
