//! Waiting for the disk, many callers at a time: who comes while one wait is under way shares the
//! next. So a round whose fifty sites all ask at once waits for the disk twice, not fifty times.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// Callers of one thing that serves everybody who had come before it began.
#[derive(Debug, Default)]
pub(super) struct Together {
    /// Callers so far.
    came: AtomicU64,
    /// How many of them were served.
    served: Mutex<u64>,
}

impl Together {
    /// Returns once `work` has been done for this caller: begun, by whomever, after this call, and
    /// ended well. A failure is the caller's who did the work; the next one tries for itself.
    pub(super) async fn serve<E>(
        &self,
        work: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let number = self.came.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.served.lock().await;
        if *served >= number {
            return Ok(());
        }
        let came = self.came.load(Ordering::SeqCst);
        work.await?;
        *served = came;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_comes_while_one_waits_shares_the_next_wait_and_a_failure_is_tried_again() {
        let (together, done) = (Arc::new(Together::default()), Arc::new(AtomicU64::new(0)));
        let gate = Arc::new(Semaphore::new(0));
        let serve = || {
            let (together, done, gate) =
                (Arc::clone(&together), Arc::clone(&done), Arc::clone(&gate));
            tokio::spawn(async move {
                let work = async {
                    let passed = gate.acquire().await.map_err(|_| "closed")?;
                    passed.forget();
                    // The second time the disk refuses.
                    if done.fetch_add(1, Ordering::SeqCst) == 1 { Err("refused") } else { Ok(()) }
                };
                together.serve(work).await
            })
        };
        let settled = || async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        let first = serve();
        settled().await;
        let others: Vec<_> = (0..50).map(|_| serve()).collect();
        settled().await;
        assert!(!first.is_finished(), "the disk has not answered");
        gate.add_permits(1);
        first.await.expect("no panic").expect("served");
        settled().await;
        assert!(others.iter().all(|other| !other.is_finished()), "they came after it had begun");
        gate.add_permits(2);
        let mut refused = 0;
        for other in others {
            refused += u32::from(other.await.expect("no panic").is_err());
        }
        assert_eq!(
            (refused, done.load(Ordering::SeqCst)),
            (1, 3),
            "one failed, one for all others"
        );
    }
}
