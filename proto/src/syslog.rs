//! A live feed for a hospital's own collector: RFC 5424 syslog over TLS (RFC 5425), one line for each
//! fact or alarm.
//!
//! Syslog has no receipts; TCP has. What was written to a connection counts as delivered once the other
//! side's TCP must have acknowledged it: when the connection still stands after longer than TCP waits for
//! that ([`feed`]). What was not is sent again, from the disk, in the same order. So a line may come twice,
//! and while there is room for it ([`Spool`]) none is lost on the way to the receiver's machine; one that
//! the machine took and its program never read is beyond what a sender can know.
//!
//! Sources: [RFC 5424], [RFC 5425] sections 4.2 and 4.3 (TLS, octet counting), [RFC 5482] (user timeout).
//!
//! [RFC 5424]: https://www.rfc-editor.org/rfc/rfc5424
//! [RFC 5425]: https://www.rfc-editor.org/rfc/rfc5425
//! [RFC 5482]: https://www.rfc-editor.org/rfc/rfc5482

mod line;
mod mark;
mod receiver;
mod sender;
mod spool;

pub use line::{Line, Severity};
pub use mark::Mark;
pub use receiver::{Receiver, Settings};
pub use sender::{Feed, feed};
pub use spool::{Place, Spool};

/// The port that RFC 5425 section 4.1 gives to syslog over TLS.
pub const PORT: u16 = 6514;

#[cfg(test)]
mod tests;
