//! One-time tokens, and what a site does with one.
//!
//! A token is used by one request; the same request may be said again to ask how far the approval
//! is. Of a token only the SHA-256 of its secret is kept.

use std::time::Duration;

use aggregation::ids::{Digest, HospitalId};
use aggregation::units::Timestamp;
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use sqlx::{Row as _, Sqlite, Transaction};
use subtle::ConstantTimeEq as _;

use super::sites::{SiteError, SiteState, find};
use super::{Leaf, Store, StoreError, digest, hospital, leaf, millis, moment};
use crate::entropy;

/// What a node asks with a token.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// PKCS #10, DER.
    pub(crate) csr: &'a [u8],
    /// Ed25519.
    pub(crate) identity_key: &'a [u8; 32],
}

/// How far an enrolment is.
#[derive(Debug)]
pub(crate) enum Enrolment {
    /// An operator has yet to approve.
    Pending(HospitalId),
    /// Here is the certificate.
    Approved(HospitalId, String),
    /// An operator said no.
    Revoked(HospitalId),
}

impl Store {
    /// Makes a token for a site; earlier tokens of it end.
    ///
    /// # Errors
    /// When the site is approved: it has to be revoked first.
    pub(crate) async fn create_token(
        &self,
        site: &HospitalId,
        valid: Duration,
        by: &str,
        now: Timestamp,
    ) -> Result<(String, Timestamp), SiteError> {
        let id = HEXLOWER.encode(&entropy::bytes::<6>()?);
        let secret = BASE64URL_NOPAD.encode(&entropy::bytes::<32>()?);
        let ends = now.saturating_add(valid);
        let mut tx = self.begin().await?;
        if let Some(known) = find(&mut tx, site).await?
            && known.state == SiteState::Approved
        {
            return Err(SiteError::WrongState {
                site: site.clone(),
                state: "approved",
                change: "invited again; revoke it first",
            });
        }
        sqlx::query("DELETE FROM tokens WHERE site = $1")
            .bind(site.as_str())
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO tokens (id, site, secret_hash, ends_ms) VALUES ($1, $2, $3, $4)")
            .bind(&id)
            .bind(site.as_str())
            .bind(Digest::sha256(secret.as_bytes()).to_string())
            .bind(millis(ends))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO sites (site, state, changed_ms) VALUES ($1, $2, $3)
             ON CONFLICT (site) DO UPDATE SET state = $2, changed_ms = $3, identity_key = NULL, request = NULL",
        )
        .bind(site.as_str())
        .bind(SiteState::Invited.name())
        .bind(millis(now))
        .execute(&mut *tx)
        .await?;
        let fact = Leaf::new("site_invited").with("site", site.as_str()).with("by", by);
        leaf::commit(tx, now, &[fact]).await?;
        Ok((format!("{id}.{secret}"), ends))
    }

    /// Finds the site that a token was made for.
    ///
    /// # Errors
    /// [`SiteError::UnknownToken`] whatever of it is wrong.
    pub(crate) async fn token_site(&self, token: &str) -> Result<HospitalId, SiteError> {
        // Strangers may ask this as often as they like, so it keeps away from the one writer.
        let mut tx = self.readers.begin().await?;
        Ok(find_token(&mut tx, token).await?.site)
    }

    /// Uses a token, or asks again with the same request how far the approval is.
    ///
    /// The caller has checked the request's signature and the identity's proof.
    ///
    /// # Errors
    /// When the token is unknown, has ended, or was used by another request.
    pub(crate) async fn enrol(
        &self,
        token: &str,
        request: &Request<'_>,
        now: Timestamp,
    ) -> Result<Enrolment, SiteError> {
        let mut tx = self.begin().await?;
        let found = find_token(&mut tx, token).await?;
        let mut both = request.csr.to_vec();
        both.extend_from_slice(request.identity_key);
        let asked = Digest::sha256(&both).to_string();
        match &found.used_for {
            Some(before) if *before == asked => return progress(&mut tx, found.site).await,
            Some(_) => return Err(SiteError::TokenUsed { site: found.site }),
            None if found.ends <= now => {
                let ended = crate::clock::written(found.ends);
                return Err(SiteError::TokenEnded { site: found.site, ended });
            }
            None => {}
        }
        sqlx::query("UPDATE tokens SET used_for = $1 WHERE id = $2")
            .bind(&asked)
            .bind(&found.id)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "UPDATE sites SET state = $1, changed_ms = $2, identity_key = $3, request = $4 WHERE site = $5",
        )
        .bind(SiteState::Pending.name())
        .bind(millis(now))
        .bind(HEXLOWER.encode(request.identity_key))
        .bind(BASE64.encode(request.csr))
        .bind(found.site.as_str())
        .execute(&mut *tx)
        .await?;
        let fact = Leaf::new("site_enrolled")
            .with("site", found.site.as_str())
            .with("identity", Digest::sha256(request.identity_key).to_string());
        leaf::commit(tx, now, &[fact]).await?;
        Ok(Enrolment::Pending(found.site))
    }
}

struct Token {
    id: String,
    site: HospitalId,
    ends: Timestamp,
    used_for: Option<String>,
}

/// The part before the point only finds the row; the secret is compared in constant time.
async fn find_token(tx: &mut Transaction<'_, Sqlite>, token: &str) -> Result<Token, SiteError> {
    let (id, secret) = token.split_once('.').ok_or(SiteError::UnknownToken)?;
    let row =
        sqlx::query("SELECT id, site, secret_hash, ends_ms, used_for FROM tokens WHERE id = $1")
            .bind(id)
            .fetch_optional(&mut **tx)
            .await?
            .ok_or(SiteError::UnknownToken)?;
    let kept = digest(row.try_get("secret_hash")?, "token")?;
    let shown = Digest::sha256(secret.as_bytes());
    if !bool::from(kept.as_bytes().ct_eq(shown.as_bytes())) {
        return Err(SiteError::UnknownToken);
    }
    Ok(Token {
        id: row.try_get("id")?,
        site: hospital(row.try_get("site")?)?,
        ends: moment(row.try_get("ends_ms")?),
        used_for: row.try_get("used_for")?,
    })
}

async fn progress(
    tx: &mut Transaction<'_, Sqlite>,
    site: HospitalId,
) -> Result<Enrolment, SiteError> {
    let known = find(tx, &site).await?.ok_or_else(|| SiteError::UnknownSite(site.clone()))?;
    match known.state {
        SiteState::Invited | SiteState::Pending => Ok(Enrolment::Pending(site)),
        SiteState::Revoked => Ok(Enrolment::Revoked(site)),
        SiteState::Approved => {
            let pem = sqlx::query_scalar(
                "SELECT pem FROM certificates WHERE site = $1 AND revoked = 0 ORDER BY issued_ms LIMIT 1",
            )
            .bind(site.as_str())
            .fetch_optional(&mut **tx)
            .await?
            .ok_or_else(|| StoreError::Corrupt(format!("the certificate of {site}")))?;
            Ok(Enrolment::Approved(site, pem))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::identity::authority::Issued;

    pub(in crate::store) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    pub(in crate::store) const DAY: Duration = Duration::from_secs(24 * 3600);
    pub(in crate::store) const KEY: [u8; 32] = [7; 32];

    pub(in crate::store) fn alpha() -> HospitalId {
        HospitalId::new("alpha").expect("a valid name")
    }

    pub(in crate::store) fn request(csr: &[u8]) -> Request<'_> {
        Request { csr, identity_key: &KEY }
    }

    pub(in crate::store) fn certificate(text: &str) -> Issued {
        Issued {
            pem: text.to_owned(),
            fingerprint: Digest::sha256(text.as_bytes()),
            ends: NOW.saturating_add(30 * DAY),
        }
    }

    pub(in crate::store) async fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).await.expect("opened");
        (folder, store)
    }

    #[tokio::test]
    async fn a_token_serves_one_request_which_may_be_repeated() {
        let (_folder, store) = store().await;
        let (token, _) = store.create_token(&alpha(), DAY, "op", NOW).await.expect("a token");
        let first = store.enrol(&token, &request(b"csr"), NOW).await.expect("used");
        assert!(matches!(first, Enrolment::Pending(site) if site == alpha()));
        let again = store.enrol(&token, &request(b"csr"), NOW.saturating_add(9 * DAY)).await;
        assert!(matches!(again, Ok(Enrolment::Pending(_))), "asking on is possible after the day");
        let other = store.enrol(&token, &request(b"another"), NOW).await;
        assert!(matches!(other, Err(SiteError::TokenUsed { .. })));
        let issue = |csr: &[u8]| {
            assert_eq!(csr, b"csr");
            Ok(certificate("leaf"))
        };
        let approved =
            store.approve_site(&alpha(), None, "op", NOW, issue).await.expect("approved");
        assert_eq!(approved.state, SiteState::Approved);
        let done = store.enrol(&token, &request(b"csr"), NOW).await.expect("approved");
        assert!(matches!(done, Enrolment::Approved(_, pem) if pem == "leaf"));
    }

    #[tokio::test]
    async fn wrong_ended_and_replaced_tokens_are_refused() {
        let (_folder, store) = store().await;
        let (old, _) = store.create_token(&alpha(), DAY, "op", NOW).await.expect("a token");
        let (token, ends) = store.create_token(&alpha(), DAY, "op", NOW).await.expect("a token");
        let mut wrong = token.clone();
        wrong.pop();
        for unknown in [old.as_str(), wrong.as_str(), "", "x", "a.b"] {
            let refused = store.enrol(unknown, &request(b"csr"), NOW).await.expect_err("unknown");
            assert_eq!(refused.to_string(), "the token is not known here");
        }
        let late = store.enrol(&token, &request(b"csr"), ends).await;
        assert!(matches!(late, Err(SiteError::TokenEnded { .. })));
    }
}
