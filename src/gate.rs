//! How many requests go on at once, and who waits: of an upstream, or of a key of `concurrency`.
//!
//! - While fewer than `limit` are in flight a request goes on. Those of a low [`Priority`] leave a fifth of
//!   that for others, unless the limit is so small that this would leave them none.
//! - Otherwise it waits in the queue, if that is not full: high priority first, then in the order of arrival.
//! - A full queue lets go of the last one of a lower priority.
//! - A place that becomes free goes to the first in the queue at once: nobody of the same priority overtakes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::config::{breaker::Queue, route::Priority};

/// The gate of an upstream or a key.
#[derive(Debug)]
pub(crate) struct Gate {
    in_flight: AtomicU32,
    limit: AtomicU32,
    /// In the queue, so that whoever leaves looks there only if somebody is.
    waiting: AtomicU32,
    /// By priority, the highest first.
    queues: Mutex<[VecDeque<oneshot::Sender<Place>>; 3]>,
}

/// A place among those in flight; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<Arc<Gate>>);

/// Why a request may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// There is no queue, or it is full.
    Full,
    /// It waited as long as it may.
    Waited,
}

impl Gate {
    pub(crate) fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self {
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            waiting: AtomicU32::new(0),
            queues: Mutex::default(),
        })
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// From now on so many. What is in flight goes on; with more, whoever waits gets in when the next one leaves.
    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Goes through, or waits.
    pub(crate) async fn enter(self: &Arc<Self>, priority: Priority, queue: Option<Queue>) -> Result<Place, Closed> {
        if self.is_first(priority)
            && let Some(place) = self.try_enter(priority)
        {
            return Ok(place);
        }
        let queue = queue.ok_or(Closed::Full)?;
        let receiver = self.queue_up(priority, queue)?;
        // Whoever left in between did not see that somebody waits.
        drop(self.try_enter(priority));
        match tokio::time::timeout(queue.timeout.0, receiver).await {
            Ok(Ok(place)) => Ok(place),
            // Displaced by a higher priority.
            Ok(Err(_)) => Err(Closed::Full),
            Err(_) => Err(Closed::Waited),
        }
    }

    /// Whether nobody waits who comes before a request of this priority.
    fn is_first(&self, priority: Priority) -> bool {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return true;
        }
        let queues = self.queues.lock();
        let [high, normal, low] = &*queues;
        match priority {
            Priority::High => high.is_empty(),
            Priority::Normal => high.is_empty() && normal.is_empty(),
            Priority::Low => high.is_empty() && normal.is_empty() && low.is_empty(),
        }
    }

    fn queue_up(&self, priority: Priority, queue: Queue) -> Result<oneshot::Receiver<Place>, Closed> {
        let most = usize::try_from(queue.length.get()).unwrap_or(usize::MAX);
        let mut queues = self.queues.lock();
        if queues.iter().map(VecDeque::len).sum::<usize>() >= most {
            // Those who gave up are still in it.
            for queue in queues.iter_mut() {
                queue.retain(|one| !one.is_closed());
            }
        }
        let [high, normal, low] = &mut *queues;
        if high.len() + normal.len() + low.len() >= most {
            // The last one of a lower priority goes.
            let displaced = match priority {
                Priority::High => low.pop_back().or_else(|| normal.pop_back()),
                Priority::Normal => low.pop_back(),
                Priority::Low => None,
            };
            drop(displaced.ok_or(Closed::Full)?);
        }
        let (sender, receiver) = oneshot::channel();
        match priority {
            Priority::High => high.push_back(sender),
            Priority::Normal => normal.push_back(sender),
            Priority::Low => low.push_back(sender),
        }
        let waiting = high.len() + normal.len() + low.len();
        self.waiting.store(u32::try_from(waiting).unwrap_or(u32::MAX), Ordering::SeqCst);
        Ok(receiver)
    }

    fn try_enter(self: &Arc<Self>, priority: Priority) -> Option<Place> {
        let most = most(self.limit(), priority);
        let more = |now: u32| (now < most).then(|| now + 1);
        let entered = self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        entered.is_ok().then(|| Place(Some(Arc::clone(self))))
    }
}

impl Gate {
    /// Gives a place that somebody leaves to the first who waits for one. Low priorities leave their part of the room to others here too.
    fn hand_on(self: &Arc<Self>) -> bool {
        let mut queues = self.queues.lock();
        let low_too = self.in_flight() <= most(self.limit(), Priority::Low);
        let eligible = if low_too { 3 } else { 2 };
        let mut given = false;
        for queue in queues.iter_mut().take(eligible) {
            while !given && let Some(first) = queue.pop_front() {
                match first.send(Place(Some(Arc::clone(self)))) {
                    Ok(()) => given = true,
                    // It waits no longer, and gives nothing back.
                    Err(mut back) => drop(back.0.take()),
                }
            }
        }
        let waiting = queues.iter().map(VecDeque::len).sum::<usize>();
        self.waiting.store(u32::try_from(waiting).unwrap_or(u32::MAX), Ordering::SeqCst);
        given
    }

    /// The highest priority that somebody waits with.
    fn next(&self) -> Option<Priority> {
        let queues = self.queues.lock();
        let order = [Priority::High, Priority::Normal, Priority::Low];
        queues.iter().zip(order).find(|(queue, _)| !queue.is_empty()).map(|(_, priority)| priority)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(gate) = self.0.take() else { return };
        // With a limit that has become smaller, fewer go on.
        let is_over = gate.in_flight() > gate.limit();
        if !is_over && gate.waiting.load(Ordering::SeqCst) > 0 && gate.hand_on() {
            return;
        }
        gate.in_flight.fetch_sub(1, Ordering::SeqCst);
        // Whoever came in between found no place, and nobody to wake it.
        if gate.waiting.load(Ordering::SeqCst) > 0
            && let Some(priority) = gate.next()
        {
            drop(gate.try_enter(priority));
        }
    }
}

/// How many may be in flight for a request of this priority to go on.
fn most(limit: u32, priority: Priority) -> u32 {
    match priority {
        Priority::High | Priority::Normal => limit,
        Priority::Low => (limit - limit / 5).max(1).min(limit),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config;

    fn queue(length: u32, millis: u64) -> Queue {
        Queue { length: length.try_into().unwrap(), timeout: config::types::Duration::from_millis(millis) }
    }

    async fn enter(gate: &Arc<Gate>, priority: Priority) -> Result<Place, Closed> {
        gate.enter(priority, None).await
    }

    #[tokio::test]
    async fn only_so_many_go_on_and_low_priorities_leave_room() {
        let gate = Gate::new(10);
        let mut places = Vec::new();
        for (priority, expected) in [(Priority::Low, 8), (Priority::Normal, 10), (Priority::High, 10)] {
            while let Ok(place) = enter(&gate, priority).await {
                places.push(place);
            }
            assert_eq!(places.len(), expected);
        }
        places.pop();
        assert_eq!(enter(&gate, Priority::Low).await.err(), Some(Closed::Full));
        assert!(enter(&gate, Priority::Normal).await.is_ok());
        drop(places);
        assert_eq!(gate.in_flight(), 0);
        let one = Gate::new(1);
        assert!(enter(&one, Priority::Low).await.is_ok(), "the only place is for everybody");
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_place_by_priority_and_order() {
        let gate = Gate::new(1);
        let held = enter(&gate, Priority::High).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for (i, priority) in [Priority::Low, Priority::Normal, Priority::Normal, Priority::High].into_iter().enumerate()
        {
            let (gate, order) = (Arc::clone(&gate), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let place = gate.enter(priority, Some(queue(10, 5_000))).await.unwrap();
                order.lock().push(i);
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.waiting.load(Ordering::SeqCst), 4);
        drop(held);
        for one in waiting {
            one.await.unwrap();
        }
        assert_eq!(*order.lock(), [3, 1, 2, 0]);
        assert_eq!(gate.in_flight(), 0);
    }

    #[tokio::test]
    async fn low_priorities_that_wait_lock_nobody_out() {
        let gate = Gate::new(5);
        let mut low = Vec::new();
        while let Ok(place) = enter(&gate, Priority::Low).await {
            low.push(place);
        }
        let wait = |priority| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.enter(priority, Some(queue(2, 5_000))).await })
        };
        let waiting = [wait(Priority::Low), wait(Priority::Low)];
        tokio::task::yield_now().await;
        let high = gate.enter(Priority::High, Some(queue(2, 5_000))).await.unwrap();
        // All places are taken: the next one waits in the place of a low one.
        let next = wait(Priority::Normal);
        tokio::task::yield_now().await;
        drop(high);
        let next = next.await.unwrap().unwrap();
        let [first, second] = waiting;
        assert_eq!(second.await.unwrap().err(), Some(Closed::Full));
        low.clear();
        drop(first.await.unwrap().unwrap());
        drop(next);
        assert_eq!(gate.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_at_once_and_who_waited_too_long_is_refused_and_forgotten() {
        let gate = Gate::new(1);
        let held = enter(&gate, Priority::High).await.unwrap();
        let wait = |gate: &Arc<Gate>| {
            let gate = Arc::clone(gate);
            tokio::spawn(async move { gate.enter(Priority::Normal, Some(queue(2, 100))).await.err() })
        };
        let waiting = [wait(&gate), wait(&gate)];
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(gate.enter(Priority::Normal, Some(queue(2, 100))).await.err(), Some(Closed::Full));
        for one in waiting {
            assert_eq!(one.await.unwrap(), Some(Closed::Waited));
        }
        // Those who gave up take no place in the queue.
        let next = wait(&gate);
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(held);
        assert_eq!(next.await.unwrap(), None);
        assert_eq!(gate.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_smaller_limit_holds_as_soon_as_enough_have_left() {
        let gate = Gate::new(4);
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(enter(&gate, Priority::High).await.unwrap());
        }
        gate.set_limit(2);
        places.truncate(2);
        assert_eq!(enter(&gate, Priority::High).await.err(), Some(Closed::Full));
        places.pop();
        assert!(enter(&gate, Priority::High).await.is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_place_is_lost_or_given_twice_whatever_happens_at_once() {
        let gate = Gate::new(3);
        let most = Arc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..2_000_u64)
            .map(|i| {
                let (gate, most) = (Arc::clone(&gate), Arc::clone(&most));
                tokio::spawn(async move {
                    let priority = [Priority::High, Priority::Normal, Priority::Low][usize::try_from(i % 3).unwrap()];
                    if let Ok(place) = gate.enter(priority, Some(queue(500, 1 + i % 7))).await {
                        most.fetch_max(gate.in_flight(), Ordering::SeqCst);
                        if i % 5 == 0 {
                            tokio::time::sleep(Duration::from_micros(i % 300)).await;
                        }
                        drop(place);
                    }
                })
            })
            .collect();
        for (i, task) in tasks.into_iter().enumerate() {
            if i % 11 == 0 {
                task.abort();
            }
            drop(task.await);
        }
        assert_eq!(gate.in_flight(), 0);
        assert!(most.load(Ordering::SeqCst) <= 3);
    }
}
