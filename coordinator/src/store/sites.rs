//! Sites and their certificates. A site is invited (a token was made), pending (it has enrolled),
//! approved, or revoked.

use std::collections::BTreeMap;

use aggregation::ids::{Digest, HospitalId};
use aggregation::keys::identity::IdentityKey;
use aggregation::units::Timestamp;
use data_encoding::{BASE64, HEXLOWER};
use sqlx::{Row as _, Sqlite, Transaction};

use super::{Leaf, Store, StoreError, bytes, digest, hospital, leaf, millis, moment};
use crate::entropy;
use crate::identity::authority::Issued;

/// How a site stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SiteState {
    /// A token was made.
    Invited,
    /// It has enrolled; an operator has yet to approve.
    Pending,
    /// It takes part.
    Approved,
    /// An operator has shut it out.
    Revoked,
}

impl SiteState {
    const ALL: [Self; 4] = [Self::Invited, Self::Pending, Self::Approved, Self::Revoked];

    /// The word that it is kept as.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Revoked => "revoked",
        }
    }

    fn from_name(name: &str) -> Result<Self, StoreError> {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or_else(|| StoreError::Corrupt("a site's state".to_owned()))
    }
}

/// A site as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Its name.
    pub(crate) name: HospitalId,
    /// How it stands.
    pub(crate) state: SiteState,
    /// SHA-256 of its Ed25519 identity key, once it has enrolled.
    pub(crate) identity: Option<Digest>,
    /// When its newest certificate ends.
    pub(crate) certificate_ends: Option<Timestamp>,
}

/// Why something cannot be done with a token or a site.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SiteError {
    /// Nothing of what was shown is known; says no more, so that guessing teaches nothing.
    #[error("the token is not known here")]
    UnknownToken,
    /// The right token, too late.
    #[error("the token of site {site} ended at {ended}")]
    TokenEnded {
        /// Whose it was.
        site: HospitalId,
        /// When it ended.
        ended: String,
    },
    /// The right token, but another request has used it.
    #[error("the token of site {site} has been used by another request")]
    TokenUsed {
        /// Whose it was.
        site: HospitalId,
    },
    /// No such site.
    #[error("there is no site {0}")]
    UnknownSite(HospitalId),
    /// The site does not stand where it must for this.
    #[error("site {site} is {state}, so it cannot be {change}")]
    WrongState {
        /// Which.
        site: HospitalId,
        /// How it stands.
        state: &'static str,
        /// What was to happen.
        change: &'static str,
    },
    /// Another identity key than the operator expects.
    #[error("site {site} has the identity {found}, expected {expected}")]
    OtherIdentity {
        /// Which site.
        site: HospitalId,
        /// What it enrolled with.
        found: String,
        /// What the operator typed.
        expected: String,
    },
    /// The certificate cannot be made.
    #[error(transparent)]
    Authority(#[from] crate::identity::authority::AuthorityError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No randomness for a token.
    #[error(transparent)]
    Entropy(#[from] entropy::NoEntropy),
}

impl From<sqlx::Error> for SiteError {
    fn from(fault: sqlx::Error) -> Self {
        Self::Store(fault.into())
    }
}

impl Store {
    /// Approves a pending site: `issue` makes the certificate for its request.
    ///
    /// # Errors
    /// When it is not pending, or has another identity than the operator expects.
    pub(crate) async fn approve_site(
        &self,
        site: &HospitalId,
        expected: Option<&str>,
        by: &str,
        now: Timestamp,
        issue: impl FnOnce(&[u8]) -> Result<Issued, crate::identity::authority::AuthorityError>,
    ) -> Result<Site, SiteError> {
        let mut tx = self.begin().await?;
        let known =
            find(&mut tx, site).await?.ok_or_else(|| SiteError::UnknownSite(site.clone()))?;
        if let (Some(expected), Some(identity)) = (expected, known.identity) {
            let found = crate::identity::authority::fingerprint_text(identity);
            if found != expected {
                let expected = expected.chars().take(80).collect();
                return Err(SiteError::OtherIdentity { site: site.clone(), found, expected });
            }
        }
        match known.state {
            SiteState::Approved => return Ok(known),
            SiteState::Pending => {}
            SiteState::Invited | SiteState::Revoked => {
                return Err(SiteError::WrongState {
                    site: site.clone(),
                    state: known.state.name(),
                    change: "approved before it has enrolled",
                });
            }
        }
        let request: Option<String> =
            sqlx::query_scalar("SELECT request FROM sites WHERE site = $1")
                .bind(site.as_str())
                .fetch_one(&mut *tx)
                .await?;
        let request = request
            .and_then(|text| BASE64.decode(text.as_bytes()).ok())
            .ok_or_else(|| StoreError::Corrupt("a certificate request".to_owned()))?;
        let issued = issue(&request)?;
        keep_certificate(&mut tx, site, &issued, now).await?;
        set_state(&mut tx, site, SiteState::Approved, now).await?;
        let mut fact = Leaf::new("site_approved")
            .with("site", site.as_str())
            .with("by", by)
            .with("certificate", issued.fingerprint.to_string());
        if let Some(identity) = known.identity {
            fact = fact.with("identity", identity.to_string());
        }
        leaf::commit(tx, now, &[fact]).await?;
        Ok(Site { state: SiteState::Approved, certificate_ends: Some(issued.ends), ..known })
    }

    /// Shuts a site out; gives the certificates that are revoked with it.
    ///
    /// # Errors
    /// When there is no such site.
    pub(crate) async fn revoke_site(
        &self,
        site: &HospitalId,
        by: &str,
        now: Timestamp,
    ) -> Result<(Site, Vec<Digest>), SiteError> {
        let mut tx = self.begin().await?;
        let known =
            find(&mut tx, site).await?.ok_or_else(|| SiteError::UnknownSite(site.clone()))?;
        sqlx::query("UPDATE certificates SET revoked = 1 WHERE site = $1")
            .bind(site.as_str())
            .execute(&mut *tx)
            .await?;
        let rows = sqlx::query("SELECT fingerprint FROM certificates WHERE site = $1")
            .bind(site.as_str())
            .fetch_all(&mut *tx)
            .await?;
        let revoked = rows
            .iter()
            .map(|row| digest(row.try_get("fingerprint")?, "certificate"))
            .collect::<Result<_, StoreError>>()?;
        if known.state != SiteState::Revoked {
            // A token that nobody used yet would let the site in again.
            sqlx::query("DELETE FROM tokens WHERE site = $1 AND used_for IS NULL")
                .bind(site.as_str())
                .execute(&mut *tx)
                .await?;
            set_state(&mut tx, site, SiteState::Revoked, now).await?;
            let fact = Leaf::new("site_revoked").with("site", site.as_str()).with("by", by);
            leaf::append(&mut tx, now, &[fact]).await?;
        }
        tx.commit().await?;
        Ok((Site { state: SiteState::Revoked, ..known }, revoked))
    }

    /// Keeps a renewed certificate of an approved site.
    ///
    /// # Errors
    /// When the site is not approved.
    pub(crate) async fn renew_site(
        &self,
        site: &HospitalId,
        issued: &Issued,
        now: Timestamp,
    ) -> Result<(), SiteError> {
        let mut tx = self.begin().await?;
        let known =
            find(&mut tx, site).await?.ok_or_else(|| SiteError::UnknownSite(site.clone()))?;
        if known.state != SiteState::Approved {
            return Err(SiteError::WrongState {
                site: site.clone(),
                state: known.state.name(),
                change: "given a new certificate",
            });
        }
        keep_certificate(&mut tx, site, issued, now).await?;
        let fact = Leaf::new("certificate_renewed")
            .with("site", site.as_str())
            .with("certificate", issued.fingerprint.to_string());
        Ok(leaf::commit(tx, now, &[fact]).await?)
    }

    /// Every site, by name.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn sites(&self) -> Result<Vec<Site>, StoreError> {
        let rows = sqlx::query(
            "SELECT s.site, s.state, s.identity_key,
                (SELECT MAX(c.ends_ms) FROM certificates c WHERE c.site = s.site AND c.revoked = 0) AS ends_ms
             FROM sites s ORDER BY s.site",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(site_of).collect()
    }

    /// The identity keys that sites have enrolled with.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn identities(&self) -> Result<BTreeMap<HospitalId, IdentityKey>, StoreError> {
        let rows =
            sqlx::query("SELECT site, identity_key FROM sites WHERE identity_key IS NOT NULL")
                .fetch_all(&self.readers)
                .await?;
        rows.iter()
            .map(|row| {
                let key = bytes(row.try_get("identity_key")?, "an identity key")?;
                Ok((hospital(row.try_get("site")?)?, IdentityKey::new(key)))
            })
            .collect()
    }

    /// Certificates that were revoked and have not ended by themselves.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn revoked_certificates(
        &self,
        now: Timestamp,
    ) -> Result<Vec<(HospitalId, Digest)>, StoreError> {
        let rows = sqlx::query(
            "SELECT site, fingerprint FROM certificates WHERE revoked = 1 AND ends_ms > $1",
        )
        .bind(millis(now))
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok((
                    hospital(row.try_get("site")?)?,
                    digest(row.try_get("fingerprint")?, "certificate")?,
                ))
            })
            .collect()
    }
}

pub(super) async fn find(
    tx: &mut Transaction<'_, Sqlite>,
    site: &HospitalId,
) -> Result<Option<Site>, StoreError> {
    let row = sqlx::query(
        "SELECT s.site, s.state, s.identity_key,
            (SELECT MAX(c.ends_ms) FROM certificates c WHERE c.site = s.site AND c.revoked = 0) AS ends_ms
         FROM sites s WHERE s.site = $1",
    )
    .bind(site.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map(site_of).transpose()
}

fn site_of(row: &sqlx::sqlite::SqliteRow) -> Result<Site, StoreError> {
    let key: Option<String> = row.try_get("identity_key")?;
    let identity = key
        .map(|text| HEXLOWER.decode(text.as_bytes()))
        .transpose()
        .map_err(|_| StoreError::Corrupt("an identity key".to_owned()))?
        .map(|bytes| Digest::sha256(&bytes));
    let ends: Option<i64> = row.try_get("ends_ms")?;
    Ok(Site {
        name: hospital(row.try_get("site")?)?,
        state: SiteState::from_name(row.try_get("state")?)?,
        identity,
        certificate_ends: ends.map(moment),
    })
}

async fn set_state(
    tx: &mut Transaction<'_, Sqlite>,
    site: &HospitalId,
    state: SiteState,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE sites SET state = $1, changed_ms = $2 WHERE site = $3")
        .bind(state.name())
        .bind(millis(now))
        .bind(site.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn keep_certificate(
    tx: &mut Transaction<'_, Sqlite>,
    site: &HospitalId,
    issued: &Issued,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO certificates (fingerprint, site, pem, issued_ms, ends_ms, revoked)
         VALUES ($1, $2, $3, $4, $5, 0)",
    )
    .bind(issued.fingerprint.to_string())
    .bind(site.as_str())
    .bind(&issued.pem)
    .bind(millis(now))
    .bind(millis(issued.ends))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tokens::Enrolment;
    use super::super::tokens::tests::{DAY, KEY, NOW, alpha, certificate, request, store};
    use super::*;

    #[tokio::test]
    async fn a_revoked_site_needs_a_new_token_and_its_certificates_stay_revoked() {
        let (_folder, store) = store().await;
        let (token, _) = store.create_token(&alpha(), DAY, "op", NOW).await.expect("a token");
        store.enrol(&token, &request(b"csr"), NOW).await.expect("used");
        let issue = |_: &[u8]| Ok(certificate("leaf"));
        let wrong = store.approve_site(&alpha(), Some("sha256:00"), "op", NOW, issue).await;
        assert!(matches!(wrong, Err(SiteError::OtherIdentity { .. })));
        let right = format!("sha256:{}", Digest::sha256(&KEY));
        store.approve_site(&alpha(), Some(&right), "op", NOW, issue).await.expect("approved");
        let invited = store.create_token(&alpha(), DAY, "op", NOW).await;
        assert!(
            matches!(invited, Err(SiteError::WrongState { .. })),
            "an approved site keeps its keys"
        );
        let (_, revoked) = store.revoke_site(&alpha(), "op", NOW).await.expect("revoked");
        assert_eq!(revoked, [certificate("leaf").fingerprint]);
        let told = store.enrol(&token, &request(b"csr"), NOW).await.expect("told");
        assert!(matches!(told, Enrolment::Revoked(_)));
        let refused = store.renew_site(&alpha(), &certificate("newer"), NOW).await;
        assert!(matches!(refused, Err(SiteError::WrongState { .. })));
        let (fresh, _) = store.create_token(&alpha(), DAY, "op", NOW).await.expect("a token");
        store.enrol(&fresh, &request(b"csr 2"), NOW).await.expect("used");
        store
            .approve_site(&alpha(), None, "op", NOW, |_| Ok(certificate("second")))
            .await
            .expect("approved");
        assert_eq!(store.revoked_certificates(NOW).await.expect("listed").len(), 1);
    }
}
