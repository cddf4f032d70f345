//! Bugs to plant: each lets one hospital, or the coordinator, do what the machines and their shells
//! take care not to do. With none of them the simulation must find nothing, with each of them the
//! invariant that it breaks.

/// A bug that is planted on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// Hospitals shift the lanes of what they send by one.
    SlipsALane,
    /// Hospitals send what the trainer made.
    SendsUnmasked,
    /// Hospitals do not write down that they have trained and masked, and do it again.
    ForgetsItsUpdate,
    /// Hospitals do not write down that they have trained.
    LosesAPage,
    /// Hospitals send a signature first and write down the set afterwards.
    SignsBeforeKeeping,
    /// Hospitals give shares for whatever set they are shown, as often as they are asked.
    AnswersEverySet,
    /// Hospitals give shares for the first set that they are shown, whoever has signed it.
    AnswersUnsigned,
    /// Hospitals leave out of a repetition the share of their own secret.
    ForgetsItsOwnShare,
    /// Hospitals erase the keys of all slots to come with those of one.
    ErasesTooMuch,
    /// Hospitals believe the coordinator what the others' identities are.
    PinsNothing,
    /// One hospital more colludes with the coordinator than the study is made for.
    OneColludesMore,
    /// The study is run with a lower quorum than people approved.
    LowersTheQuorum,
    /// The coordinator answers before it has written down.
    AnswersBeforeKeeping,
    /// The coordinator lets notices out before it has written down what led to them.
    TellsBeforeKeeping,
    /// The coordinator does not name those who dropped out.
    SilentQuorum,
    /// The coordinator blames another hospital for a wrong share than the one that gave it.
    BlamesAnother,
    /// Something panics.
    Panics,
}

impl Flaw {
    /// Every flaw.
    pub const ALL: [Self; 17] = [
        Self::SlipsALane,
        Self::SendsUnmasked,
        Self::ForgetsItsUpdate,
        Self::LosesAPage,
        Self::SignsBeforeKeeping,
        Self::AnswersEverySet,
        Self::AnswersUnsigned,
        Self::ForgetsItsOwnShare,
        Self::ErasesTooMuch,
        Self::PinsNothing,
        Self::OneColludesMore,
        Self::LowersTheQuorum,
        Self::AnswersBeforeKeeping,
        Self::TellsBeforeKeeping,
        Self::SilentQuorum,
        Self::BlamesAnother,
        Self::Panics,
    ];
}
