//! Who is let in, and who is not.

use harness::consortium::{Consortium, Token};
use harness::forge::{Flaw, certificate};
use harness::player::{Knock, Player, knock};
use harness::site::{Site, Work};
use harness::{Outcome, patience};
use proto::channel::{ClientIdentity, Trouble as Channel};
use tonic::Code;

use crate::house::shared;

/// A site of the shared house that has not asked for anything yet.
fn newcomer(house: &Consortium, name: &str) -> Outcome<Site> {
    Site::settle(house.programs(), &house.dir().join(name), name, &Work::StandIn)
}

#[tokio::main(flavor = "current_thread")]
async fn knocked(house: &Consortium, identity: Option<ClientIdentity>) -> Result<(), Knock> {
    knock(house, identity).await
}

#[test]
fn a_wrong_an_expired_and_a_used_token_are_each_refused_by_one_line() -> Outcome<()> {
    let house = shared()?;
    let enroll = |site: &Site, token: &Token| house.enroll(site, token, &house.url()).run();

    let good = house.token("token-1", &[])?;
    let site = newcomer(&house, "token-1")?;
    for wrong in ["nonsense".to_owned(), "00112233aabb.AAAA".to_owned(), format!("{}x", good.token)]
    {
        let refused = enroll(&site, &Token { token: wrong, ..good.clone() })?.refused(2)?;
        assert!(refused.message.contains("token"), "{refused:?}");
        assert!(!refused.message.contains('\n'), "{refused:?}");
    }

    let late = newcomer(&house, "token-2")?;
    let short = house.token("token-2", &["--valid", "1s"])?;
    patience::pass(std::time::Duration::from_millis(1500));
    let refused = enroll(&late, &short)?.refused(2)?;
    assert!(refused.message.contains("token"), "{refused:?}");
    assert!(refused.message.contains("ended"), "{refused:?}");

    // The same token, from the one who used it and then from somebody else.
    let first = {
        let order = house.enroll(&site, &good, &house.url());
        let enrolling = std::thread::spawn(move || order.run());
        house.approve("token-1")?;
        enrolling.join().expect("no panic")?
    };
    first.data()?;
    let thief = newcomer(&house, "token-thief")?;
    let refused = enroll(&thief, &good)?.refused(2)?;
    assert!(refused.message.contains("used"), "{refused:?}");
    assert_eq!(house.site_view("token-1")?["state"], "approved");
    Ok(())
}

#[test]
fn a_wrong_ca_fingerprint_ends_the_enrolment_before_the_token_is_shown() -> Outcome<()> {
    let house = shared()?;
    let token = house.token("pinned", &[])?;
    let site = newcomer(&house, "pinned")?;
    let wrong = Token { ca_fingerprint: format!("sha256:{}", "ab".repeat(32)), ..token.clone() };
    let refused = house.enroll(&site, &wrong, &house.url()).run()?.refused(2)?;
    assert!(refused.message.contains("CA"), "{refused:?}");
    assert_eq!(house.site_view("pinned")?["state"], "invited");
    // No fingerprint at all is a wrong argument.
    let none = Token { ca_fingerprint: "sha256:12".to_owned(), ..token };
    house.enroll(&site, &none, &house.url()).run()?.refused(4)?;
    Ok(())
}

#[test]
fn certificates_that_are_not_good_here_open_nothing() -> Outcome<()> {
    let house = shared()?;
    let (site, _) = house.sites[0].identity()?;
    assert_eq!(knocked(&house, Some(site)), Ok(()), "a good one is let in");

    let refused = knocked(&house, None).expect_err("no certificate");
    assert!(matches!(refused, Knock::Refused(Code::Unauthenticated, _)), "{refused:?}");

    let other = Consortium::found("south")?;
    let refused = knocked(&house, Some(other.operator_identity()?)).expect_err("another CA's");
    assert!(
        matches!(refused, Knock::Channel(Channel::Rejected | Channel::Tls)),
        "TLS itself must refuse it: {refused:?}"
    );

    let ended = knocked(&house, Some(certificate(&house, "site-1", Flaw::Ended)?));
    let ended = ended.expect_err("an ended one");
    assert!(matches!(ended, Knock::Channel(Channel::Clock)), "{ended:?}");
    for flaw in [Flaw::TwoNames, Flaw::OtherConsortium, Flaw::UnknownSite] {
        let refused =
            knocked(&house, Some(certificate(&house, "site-1", flaw)?)).expect_err("a flaw");
        let codes = [Code::Unauthenticated, Code::PermissionDenied];
        let shut = matches!(&refused, Knock::Refused(code, _) if codes.contains(code));
        assert!(shut, "{flaw:?}: {refused:?}");
    }

    // The operator is not a site, and a site is not an operator.
    let refused = knocked(&house, Some(house.operator_identity()?)).expect_err("an operator");
    assert!(matches!(refused, Knock::Refused(Code::PermissionDenied, _)), "{refused:?}");
    Ok(())
}

#[test]
fn a_sites_certificate_opens_no_operators_door() -> Outcome<()> {
    let house = shared()?;
    let state = house.sites[0].home().join("state");
    let config = std::fs::read_to_string(house.config())?;
    let disguised = config
        .replace("\"operator.pem\"", &format!("{:?}", state.join("certificate.pem")))
        .replace("\"operator.key\"", &format!("{:?}", state.join("tls.key")));
    assert_ne!(config, disguised);
    let path = house.home().join("disguised.toml");
    std::fs::write(&path, disguised)?;
    for command in [
        &["site", "list"][..],
        &["site", "token", "friend"],
        &["site", "revoke", "site-2"],
        &["study", "list"],
        &["model", "list", "--study", "x"],
    ] {
        let order = harness::command::Order::new(house.programs().coordinator())
            .arg("--config")
            .arg(&path)
            .args(["--format", "json"])
            .args(command);
        let refused = order.run()?.refused(2)?;
        assert!(refused.message.contains("site"), "{command:?}: {refused:?}");
    }
    assert_eq!(house.site_view("site-2")?["state"], "approved");
    Ok(())
}

#[test]
fn an_operator_of_another_consortium_is_refused_and_told_what_to_do() -> Outcome<()> {
    let house = shared()?;
    let other = Consortium::found("south")?;
    let config = std::fs::read_to_string(other.config())?;
    let redirected = config.replace(&other.url(), &house.url());
    std::fs::write(other.config(), redirected)?;
    let refused = other.operator(["site", "list"]).run()?.refused(2)?;
    assert!(refused.message.contains("CA"), "{refused:?}");
    assert!(!refused.hint.is_empty(), "{refused:?}");
    Ok(())
}

#[test]
fn a_certificate_that_tls_refuses_ends_a_command_with_2_and_says_what_to_do() -> Outcome<()> {
    let house = shared()?;
    let other = Consortium::found("south")?;
    let ended = certificate(&house, "site-1", Flaw::Ended)?;
    for (what, shown) in [("another CA's", other.operator_identity()?), ("an ended one", ended)] {
        let folder = tempfile::tempdir()?;
        let (certificate, key) = (folder.path().join("shown.pem"), folder.path().join("shown.key"));
        std::fs::write(&certificate, &shown.certificate_pem)?;
        std::fs::write(&key, &shown.key_pem)?;
        let config = std::fs::read_to_string(house.config())?
            .replace("\"operator.pem\"", &format!("{certificate:?}"))
            .replace("\"operator.key\"", &format!("{key:?}"));
        // In the consortium's own folder: the other paths are relative.
        let path = house.home().join(format!("refused-{}.toml", what.len()));
        std::fs::write(&path, config)?;
        // Whether the alert or the end of the connection is seen first is a race: look often.
        for _ in 0..5 {
            let order = harness::command::Order::new(house.programs().coordinator());
            let order = order.arg("--config").arg(&path).args(["--format", "json", "site", "list"]);
            let refused = order.run()?.refused(2)?;
            assert!(refused.message.contains("certificate"), "{what}: {refused:?}");
            assert!(!refused.hint.is_empty(), "{what}: {refused:?}");
        }
    }
    Ok(())
}

#[test]
fn a_revoked_site_is_cut_off_at_once_and_stays_out_until_it_has_a_new_token() -> Outcome<()> {
    let mut house = Consortium::found("north")?;
    house.serve()?;
    house.settle(&[Work::StandIn, Work::StandIn])?;
    house.start_sites()?;
    house.operator(["site", "revoke", "site-1"]).data()?;
    house.await_site("site-1", |view| view["connected"] == false && view["state"] == "revoked")?;
    let (old, _) = house.sites[0].identity()?;
    let refused = knocked(&house, Some(old.clone())).expect_err("revoked");
    assert!(matches!(refused, Knock::Refused(Code::PermissionDenied, _)), "{refused:?}");
    house.sites[0].order(["renew"]).run()?.refused(2)?;
    assert_eq!(house.site_view("site-2")?["connected"], true);

    // A restart does not forget it.
    house.stop()?;
    house.serve()?;
    let refused = knocked(&house, Some(old)).expect_err("still revoked");
    assert!(matches!(refused, Knock::Refused(Code::PermissionDenied, _)), "{refused:?}");
    house.await_site("site-2", |view| view["connected"] == true)?;
    Ok(())
}

#[test]
fn a_site_that_is_revoked_while_its_stream_is_open_is_told_so() -> Outcome<()> {
    let mut house = Consortium::found("north")?;
    house.serve()?;
    house.settle(&[Work::StandIn])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut player = runtime.block_on(Player::take_seat(&house, &house.sites[0]))?;
    house.operator(["site", "revoke", "site-1"]).data()?;
    let ended = runtime.block_on(player.await_hang_up())?;
    assert_eq!(ended.code(), Code::PermissionDenied);
    Ok(())
}

#[test]
fn a_certificate_is_renewed_over_the_wire_and_the_new_one_is_good() -> Outcome<()> {
    let house = shared()?;
    let (before, _) = house.sites[1].identity()?;
    house.sites[1].order(["renew"]).data()?;
    let (after, _) = house.sites[1].identity()?;
    assert_ne!(before.certificate_pem, after.certificate_pem);
    assert_eq!(knocked(&house, Some(after)), Ok(()));
    Ok(())
}
