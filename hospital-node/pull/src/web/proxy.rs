//! Which proxy a connection goes through.

use ureq::http::Uri;
use ureq::{Proxy as Through, ProxyProtocol};

use crate::job::Proxy;

/// What stands beside `ALL_PROXY`, which is taken first.
const OTHERS: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];

/// The proxy to this address, if there is one.
///
/// # Errors
/// One line where there is one that we cannot speak with.
pub(super) fn to(base: &str, proxy: &Proxy) -> Result<Option<Through>, String> {
    let through = match proxy {
        Proxy::Environment => of_environment(base),
        Proxy::Direct => None,
        Proxy::Url(url) => {
            Some(Through::new(url).map_err(|_| "the proxy's address is none".to_owned())?)
        }
    };
    if through.as_ref().is_some_and(is_socks) {
        let text = "expected an HTTP proxy (http:// or https://), found SOCKS, which is not \
                    spoken here; set proxy, to an HTTP proxy or to \"none\"";
        return Err(text.to_owned());
    }
    Ok(through)
}

/// SOCKS only where it would be used: the address is not excepted by `NO_PROXY`, and no other variable
/// names an HTTP proxy.
#[expect(
    clippy::disallowed_methods,
    reason = "the library reads them for us, but stops at a proxy that it cannot use"
)]
fn of_environment(base: &str) -> Option<Through> {
    let found = Through::try_from_env()?;
    if !is_socks(&found) {
        return Some(found);
    }
    if base.parse::<Uri>().is_ok_and(|base| found.is_no_proxy(&base)) {
        return None;
    }
    let named = OTHERS.iter().filter_map(|name| std::env::var(name).ok());
    let mut others = named.filter_map(|url| Through::new(&url).ok());
    Some(others.find(|other| !is_socks(other)).unwrap_or(found))
}

fn is_socks(proxy: &Through) -> bool {
    !matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
}
