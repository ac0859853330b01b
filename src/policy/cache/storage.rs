//! What Pingora's cache asks of whoever keeps the answers.

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use pingora::{
    Error, ErrorType, Result,
    cache::{
        CacheKey, CacheMeta, HitHandler, MissHandler, PurgeType, Storage,
        storage::{HandleHit, HandleMiss, MissFinishType, PurgeOutcome, PurgeTarget},
        trace::SpanHandle,
    },
};

use super::{
    Shelves,
    rules::{MaxObject, length},
    shelf::{Address, Entry, Stamp, Ticket},
    shelves::address,
};

/// How much of a body is handed on at once. Nothing is copied.
const PIECE: usize = 64 << 10;

#[async_trait]
impl Storage for Shelves {
    async fn lookup(&'static self, key: &CacheKey, _: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        let Some(entry) = address(key).and_then(|(at, _)| self.find(&at)) else { return Ok(None) };
        let meta = entry.meta();
        Ok(Some((meta, Box::new(Hit { rest: entry.body.clone(), entry }))))
    }

    async fn get_miss_handler(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<MissHandler> {
        let Some((at, route)) = address(key) else {
            return Error::e_explain(ErrorType::InternalError, "a key of another cache");
        };
        let max = meta.extensions().get::<MaxObject>().map_or(0, |max| max.0);
        let Some(ticket) = meta.extensions().get::<Ticket>().copied() else {
            return Error::e_explain(ErrorType::InternalError, "nobody watched");
        };
        let length = length(meta.response_header());
        let entry = Entry::new(meta, Bytes::new(), route);
        let mut fill = Fill {
            shelves: self,
            ticket,
            at,
            key: key.clone(),
            taken: 0,
            max,
            length,
            body: BytesMut::with_capacity(length.unwrap_or(0).min(max)),
            entry: Some(entry),
        };
        let weight = fill.entry.as_ref().map_or(0, Entry::weight);
        fill.take(weight);
        Ok(Box::new(fill))
    }

    async fn purge(&'static self, target: PurgeTarget<'_>, _: PurgeType, _: &SpanHandle) -> Result<PurgeOutcome> {
        // Nobody asks: what is evicted and taken away is so by `Shelves` itself, which knows places.
        _ = target;
        Ok(PurgeOutcome::NotFound)
    }

    async fn update_meta(&'static self, key: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        // Only the answer that the upstream was asked about: there may be another one by now.
        let said = (meta.extensions().get::<Stamp>().copied(), meta.extensions().get::<Ticket>().copied());
        let (Some((at, route)), (Some(stamp), Some(ticket))) = (address(key), said) else { return Ok(false) };
        let Some(old) = self.find(&at).filter(|old| old.stamp() == stamp) else { return Ok(false) };
        let entry = Entry::new(meta, old.body.clone(), route);
        let weight = entry.weight();
        if !self.take(weight) {
            return Ok(false);
        }
        let is_new = self.renew(at, entry, (stamp, ticket));
        if !is_new {
            self.give_back(weight);
        }
        Ok(is_new)
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

/// An answer that is given.
struct Hit {
    entry: Arc<Entry>,
    rest: Bytes,
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }

    async fn finish(self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let body = &self.entry.body;
        let end = end.unwrap_or(body.len()).min(body.len());
        if start > end {
            return Error::e_explain(ErrorType::InternalError, "a range behind the end");
        }
        self.rest = body.slice(start..end);
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// An answer that comes in. Dropped before its end, nothing of it is kept.
struct Fill {
    shelves: &'static Shelves,
    at: Address,
    ticket: Ticket,
    key: CacheKey,
    /// Bytes that room was taken for.
    taken: usize,
    max: usize,
    length: Option<usize>,
    body: BytesMut,
    /// Nothing if it is not kept after all.
    entry: Option<Entry>,
}

impl Fill {
    fn take(&mut self, bytes: usize) {
        if self.shelves.take_in(bytes) {
            self.taken += bytes;
        } else {
            self.give_up();
        }
    }

    /// It has come in, or will not.
    fn end(&mut self, kept: bool) {
        let taken = std::mem::take(&mut self.taken);
        self.shelves.filled(taken);
        if !kept {
            self.shelves.give_back(taken);
        }
    }

    fn give_up(&mut self) {
        self.entry = None;
        self.body = BytesMut::new();
        self.end(false);
    }
}

#[async_trait]
impl HandleMiss for Fill {
    async fn write_body(&mut self, piece: Bytes, _: bool) -> Result<()> {
        if self.entry.is_none() {
            return Ok(());
        }
        if self.body.len() + piece.len() > self.max {
            self.shelves.is_too_large(&self.key);
            self.give_up();
            return Ok(());
        }
        self.take(piece.len());
        if self.entry.is_some() {
            self.body.extend_from_slice(&piece);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<MissFinishType> {
        let is_whole = self.length.is_none_or(|length| length == self.body.len());
        let Some(mut entry) = self.entry.take().filter(|_| is_whole) else { return Ok(MissFinishType::Created(0)) };
        // Without a length the buffer grew by doubling.
        let body = std::mem::take(&mut self.body);
        entry.body = if body.capacity() > body.len() + 64 { Bytes::copy_from_slice(&body) } else { body.freeze() };
        let kept = self.shelves.put_if_current(self.at, entry, self.ticket);
        self.end(kept);
        Ok(MissFinishType::Created(0))
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.end(false);
    }
}
