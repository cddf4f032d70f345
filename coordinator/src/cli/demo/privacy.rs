//! How private the demo's study is.

use clap::ValueEnum;
use proto::cli::Failure;

use super::DemoArgs;

/// Epsilon where a private mode is asked for without one.
const EPSILON: f64 = 3.0;
/// The failure probability.
pub(super) const DELTA: f64 = 1e-5;
/// What the demo's hospitals allow a study beyond what it plans: a round that is tried again is paid
/// for again.
const ROOM: f64 = 1.25;

/// The privacy modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// The hospitals share the noise out among them: as good as pooled data.
    Distributed,
    /// Each hospital adds all of the noise by itself.
    Silo,
    /// `danger_no_privacy`, with every hospital's own opt-in.
    None,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Distributed => "distributed",
            Self::Silo => "silo",
            Self::None => "danger_no_privacy",
        }
    }
}

/// What was asked for, made whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Privacy {
    /// Who adds how much of the noise.
    pub(super) mode: Mode,
    /// The target; none without privacy.
    pub(super) epsilon: Option<f64>,
}

impl Privacy {
    /// Reads the arguments. An epsilon alone means shared noise.
    pub(super) fn of(arguments: &DemoArgs) -> Result<Self, Failure> {
        let DemoArgs { mode, epsilon, .. } = arguments;
        if let Some(epsilon) = epsilon
            && !(epsilon.is_finite() && *epsilon > 0.0)
        {
            let text = format!("--epsilon: expected a number above 0, found {epsilon}");
            return Err(Failure::usage("bad_epsilon", text));
        }
        match (mode, epsilon) {
            (Some(Mode::None), Some(epsilon)) => Err(Failure::usage(
                "bad_epsilon",
                format!("--epsilon {epsilon} does not go with --mode none"),
            )
            .hint("leave one of them out")),
            (None | Some(Mode::None), None) => Ok(Self { mode: Mode::None, epsilon: None }),
            (mode, epsilon) => Ok(Self {
                mode: mode.unwrap_or(Mode::Distributed),
                epsilon: Some(epsilon.unwrap_or(EPSILON)),
            }),
        }
    }

    /// The word in the manifest.
    pub(super) const fn name(&self) -> &'static str {
        self.mode.name()
    }

    /// The lines of a hospital's policy.
    pub(super) fn policy(&self) -> String {
        match self.epsilon {
            None => "# The demo shows the machinery; a real hospital leaves this out.\n\
                     danger_allow_no_privacy = true\n"
                .to_owned(),
            Some(epsilon) => {
                let cap = epsilon * ROOM;
                format!(
                    "epsilon_per_study = {cap:?}\nepsilon_lifetime = {cap:?}\naccountant = \"pld\"\n\
                     # A handful of hospitals cannot hide one from all others; more can.\n\
                     solo_epsilon_per_study = 1000.0\nsolo_epsilon_lifetime = 1000.0\n\
                     # An .npz file does not say whose its images are.\n\
                     danger_allow_image_level_privacy = true\n"
                )
            }
        }
    }
}
