//! Handing out ids while keeping the persisted ceiling ahead of them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use wk_proto::cluster::v1::IdRun;
use wk_store::{Durability, GroupId, LogBackend, LogItem, LogWrite, LogWriter, MetaTag, StoreError};
use wk_types::NodeId;

use super::generator::{Blocked, Generator};
use crate::clock::Clock;
use crate::error::Refusal;
use crate::limits::IDS_MAX;

/// The longest a request waits for clock or ceiling before it is refused.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Where the ceiling is kept: a row of the raft log's meta family, written with the group commit.
#[derive(Debug, Clone)]
pub struct Ceiling {
    writer: LogWriter,
    backend: Arc<dyn LogBackend>,
}

impl Ceiling {
    /// The ceiling of the node whose log this is.
    #[must_use]
    pub fn new(writer: LogWriter, backend: Arc<dyn LogBackend>) -> Self {
        Self { writer, backend }
    }

    /// The stored ceiling; 0 on a fresh node. Unit: ms since 1970.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(&self) -> Result<u64, StoreError> {
        match self.backend.meta(GroupId(0), MetaTag::IdCeiling)? {
            Some(value) => {
                let bytes = <[u8; 8]>::try_from(&value[..]).map_err(|_| StoreError::Shape { what: "id ceiling" })?;
                Ok(u64::from_be_bytes(bytes))
            }
            None => Ok(0),
        }
    }

    /// Stores the ceiling; returns when it is on the device.
    async fn store(&self, ceiling_ms: u64) -> Result<(), Refusal> {
        let (done, written) = oneshot::channel();
        let mut write = LogWrite::new(GroupId(0), Durability::Synced);
        write.meta.push((MetaTag::IdCeiling, ceiling_ms.to_be_bytes().to_vec().into()));
        let done = Box::new(move |result: Result<(), StoreError>| {
            // The asker may be gone; the ceiling is stored all the same.
            let _gone = done.send(result.is_ok());
        });
        self.writer.submit(LogItem { write, done: Some(done) }).await.map_err(|_| Refusal::not_ready("log writer is stopped"))?;
        match written.await {
            Ok(true) => Ok(()),
            _ => Err(Refusal::not_ready("log writer is stopped")),
        }
    }
}

/// Hands out ids. Clones share the generator.
#[derive(Debug, Clone)]
pub struct IdService {
    generator: Arc<Mutex<Generator>>,
    ceiling: Ceiling,
    /// Held while the ceiling is being raised: others wait for that one write.
    raising: Arc<AsyncMutex<()>>,
    clock: Clock,
}

impl IdService {
    /// Reads the ceiling of the last run. Ids begin at it: after a crash that is at most [`super::LEAD_MS_MAX`] ahead of the clock, so a
    /// restart need not wait; when the clock was set back further it waits.
    ///
    /// # Errors
    /// The ceiling cannot be read.
    pub fn open(node: NodeId, ceiling: Ceiling, clock: Clock) -> Result<Self, StoreError> {
        let generator = Generator::new(node, ceiling.load()?);
        Ok(Self { generator: Arc::new(Mutex::new(generator)), ceiling, raising: Arc::new(AsyncMutex::new(())), clock })
    }

    /// Waits until ids may be handed out, and stores the first ceiling.
    ///
    /// # Errors
    /// [`Refusal`]: the writer stopped.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn start(&self) -> Result<(), Refusal> {
        let wait = self.generator.lock().start_wait_ms(self.clock.now_ms());
        if wait > 0 {
            tracing::warn!(wait_ms = wait, "clock is behind the ids of the last run, waiting");
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        self.raise().await
    }

    /// Up to `count` ids, at least one.
    ///
    /// # Errors
    /// [`Refusal`]: a count out of range, or ids ran too far ahead of the clock.
    ///
    /// # Cancel safety
    /// Ids that were taken by a cancelled call are lost, never repeated.
    pub async fn alloc(&self, count: u32) -> Result<Vec<IdRun>, Refusal> {
        if count == 0 || count > IDS_MAX {
            return Err(Refusal::rejected("count is out of range"));
        }
        let until = tokio::time::Instant::now() + WAIT_MAX;
        loop {
            let tried = self.generator.lock().alloc(self.clock.now_ms(), count);
            match tried {
                Ok(runs) => return Ok(runs),
                Err(_) if tokio::time::Instant::now() >= until => return Err(Refusal::overloaded("ids ran ahead of the clock")),
                Err(Blocked::Ceiling(_)) => self.raise().await?,
                Err(Blocked::Clock(ms)) => tokio::time::sleep(Duration::from_millis(ms.min(50))).await,
            }
        }
    }

    /// Raises the ceiling when ids come near it. Called once a second.
    ///
    /// # Errors
    /// [`Refusal`]: the writer stopped.
    pub async fn keep_ahead(&self) -> Result<(), Refusal> {
        let near = self.generator.lock().ceiling_is_near(self.clock.now_ms());
        if near { self.raise().await } else { Ok(()) }
    }

    /// Leaves the smallest safe ceiling, so that a planned restart continues without a gap.
    ///
    /// # Errors
    /// [`Refusal`]: the writer stopped.
    pub async fn stop(&self) -> Result<(), Refusal> {
        let used = self.generator.lock().used_up_to_ms();
        self.ceiling.store(used).await
    }

    async fn raise(&self) -> Result<(), Refusal> {
        let _one = self.raising.lock().await;
        let now = self.clock.now_ms();
        let wanted = {
            let generator = self.generator.lock();
            if !generator.ceiling_is_near(now) {
                return Ok(());
            }
            generator.wanted_ceiling_ms(now)
        };
        self.ceiling.store(wanted).await?;
        self.generator.lock().raise(wanted);
        Ok(())
    }
}
