//! `--drop SITE@ROUND:PHASE`: a hospital's process is killed in the middle of a round, so that
//! anyone can watch the round being finished without it.

use std::str::FromStr;

use proto::federation::study_event::Event;

/// Up to where the hospital gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It says that it is ready, and does not upload.
    Ready,
    /// Its masked update is complete, and it does not sign.
    Masked,
    /// It has signed the final set, and gives no shares.
    Signed,
    /// It has given its shares.
    Unmask,
}

impl Phase {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Masked => "masked",
            Self::Signed => "signed",
            Self::Unmask => "unmask",
        }
    }
}

/// One wish: this hospital, in this round, at this point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    site: u16,
    round: u32,
    phase: Phase,
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected SITE@ROUND:PHASE, as 2@3:masked, with PHASE one of ready, masked, signed, unmask; found {text:?}"
            )
        };
        let (site, rest) = text.split_once('@').ok_or_else(expected)?;
        let (round, phase) = rest.split_once(':').ok_or_else(expected)?;
        let phases = [Phase::Ready, Phase::Masked, Phase::Signed, Phase::Unmask];
        let phase = phases.into_iter().find(|one| one.name() == phase).ok_or_else(expected)?;
        let site = site.parse().ok().filter(|site| *site > 0).ok_or_else(expected)?;
        let round = round.parse().ok().filter(|round| *round > 0).ok_or_else(expected)?;
        Ok(Self { site, round, phase })
    }
}

impl Wish {
    /// The hospital's number, from 1.
    pub(super) const fn site(self) -> u16 {
        self.site
    }

    /// The round.
    pub(super) const fn round(self) -> u32 {
        self.round
    }
}

/// What is to be killed when, and what has been.
#[derive(Debug)]
pub(super) struct Drops {
    open: Vec<Wish>,
    /// Killed in the open round, and left so until it closes.
    down: Vec<(String, Wish)>,
}

impl Drops {
    pub(super) fn new(wishes: &[Wish]) -> Self {
        Self { open: wishes.to_vec(), down: Vec::new() }
    }

    /// Whether this hospital was killed on purpose and is to stay down for now.
    pub(super) fn keeps_down(&self, name: &str) -> bool {
        self.down.iter().any(|(site, _)| site == name)
    }

    /// The hospital to kill now, if this event is what was waited for.
    pub(super) fn due(&mut self, event: &Event) -> Option<(String, Wish)> {
        let (round, site, phase) = match event {
            Event::Ready(said) => (said.round, &said.site, Phase::Ready),
            Event::Uploaded(said) => (said.round, &said.site, Phase::Masked),
            Event::Signed(said) => (said.round, &said.site, Phase::Signed),
            Event::Unmasked(said) => (said.round, &said.site, Phase::Unmask),
            Event::Snapshot(_) | Event::Started(_) | Event::Progress(_) | Event::Closed(_) => {
                return None;
            }
        };
        let wanted =
            |wish: &Wish| (wish.round, wish.phase) == (round, phase) && *site == name_of(wish.site);
        let at = self.open.iter().position(wanted)?;
        let wish = self.open.remove(at);
        self.down.push((site.clone(), wish));
        Some((site.clone(), wish))
    }

    /// The round has closed: whoever is down may come back. Those that got further than was asked
    /// for, with how far: the kill came too late.
    pub(super) fn closed(&mut self, event: &Event) -> Vec<String> {
        let Event::Closed(round) = event else { return Vec::new() };
        let mut late = Vec::new();
        for (site, wish) in self.down.drain(..) {
            let course = round.courses.iter().find(|course| course.site == site);
            let reached = course.map_or(Phase::Ready, |course| {
                if course.unmasked {
                    Phase::Unmask
                } else if course.signed {
                    Phase::Signed
                } else if course.uploaded {
                    Phase::Masked
                } else {
                    Phase::Ready
                }
            });
            if reached > wish.phase {
                late.push(format!(
                    "{site} was to drop out once {} in round {}, and was quicker: it got to {}",
                    wish.phase.name(),
                    wish.round,
                    reached.name()
                ));
            }
        }
        late
    }

    /// What was asked for and never happened.
    pub(super) fn unfulfilled(&self) -> impl Iterator<Item = String> {
        self.open.iter().map(|wish| {
            format!(
                "hospital-{} was never {} in round {}",
                wish.site,
                wish.phase.name(),
                wish.round
            )
        })
    }
}

/// What the demo calls a hospital.
pub(super) fn name_of(site: u16) -> String {
    format!("hospital-{site}")
}

#[cfg(test)]
mod tests {
    use proto::federation::SiteUploaded;

    use super::*;

    #[test]
    fn a_wish_is_a_site_a_round_and_a_phase() {
        let wish: Wish = "2@3:masked".parse().expect("as documented");
        assert_eq!(wish, Wish { site: 2, round: 3, phase: Phase::Masked });
        for wrong in ["", "2", "2@3", "2@3:", "0@3:ready", "2@0:ready", "a@3:ready", "2@3:never"] {
            let refused = wrong.parse::<Wish>().expect_err("no wish");
            assert!(refused.contains("SITE@ROUND:PHASE"), "{refused}");
        }
    }

    #[test]
    fn a_wish_comes_true_once_and_only_at_its_point() {
        let mut drops = Drops::new(&["2@3:masked".parse().expect("a wish")]);
        let uploaded =
            |round, site: &str| Event::Uploaded(SiteUploaded { round, site: site.to_owned() });
        assert_eq!(drops.due(&uploaded(2, "hospital-2")), None);
        assert_eq!(drops.due(&uploaded(3, "hospital-1")), None);
        assert_eq!(drops.unfulfilled().count(), 1);
        let due = drops.due(&uploaded(3, "hospital-2")).map(|(site, _)| site);
        assert_eq!(due.as_deref(), Some("hospital-2"));
        assert!(drops.keeps_down("hospital-2") && !drops.keeps_down("hospital-1"));
        assert_eq!(drops.due(&uploaded(3, "hospital-2")), None);
        assert_eq!(drops.unfulfilled().count(), 0);
        assert!(drops.closed(&Event::Closed(Default::default())).is_empty());
        assert!(!drops.keeps_down("hospital-2"));
    }
}
