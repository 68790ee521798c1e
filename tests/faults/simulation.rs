//! The simulation: time passes, something breaks, and the rules are checked.

use std::time::Duration;

use anchorgate::runtime::random::repeat_jitter;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::checks;
use crate::disk;
use crate::gateway::Gateway;
use crate::network::{Shared, World, lock};
use crate::pki::AUTHORITIES;
use crate::random::Random;
use crate::{directory, issuer};

/// Steps of one simulation.
const STEPS: usize = 200;

/// A simulated gateway and its surroundings.
pub struct Simulation {
    pub random: Random,
    pub world: Shared,
    pub gateway: Gateway,
    folder: TempDir,
    disk_is_full: bool,
    /// Instant of the last start of the gateway.
    pub started: Instant,
    /// Instant of the last change of the gateway's clock.
    pub clock_changed: Instant,
    /// Instant of the last change of each directory and of each CRL server.
    pub directory_since: Vec<Instant>,
    pub issuer_since: Vec<Instant>,
    /// The last events, for the report of a violation.
    pub events: Vec<String>,
}

impl Simulation {
    /// Runs the simulation of `seed`.
    ///
    /// # Errors
    /// A rule is violated.
    pub async fn run(seed: u64) -> Result<Duration, String> {
        repeat_jitter(seed as u32);
        let folder = tempfile::tempdir().expect("a folder");
        let (world, now) = (World::new(), Instant::now());
        let gateway = Gateway::start(&world, folder.path());
        let mut simulation = Self {
            random: Random::new(seed),
            world,
            gateway,
            folder,
            disk_is_full: false,
            started: now,
            clock_changed: now,
            directory_since: vec![now; 2],
            issuer_since: vec![now; 2],
            events: Vec::new(),
        };
        for step in 0..STEPS {
            simulation.pass().await;
            if let Err(why) = checks::check(&simulation) {
                let events = simulation.events.join("\n  ");
                return Err(format!("step {step}: {why}\nevents:\n  {events}"));
            }
            simulation.disturb().await;
        }
        simulation.gateway.crash().await;
        Ok(now.elapsed())
    }

    /// Lets time pass, then waits until the gateway is idle.
    async fn pass(&mut self) {
        let time = match self.random.below(10) {
            0..=3 => self.random.between(1, 60),
            4..=7 => self.random.between(60, 1200),
            _ => self.random.between(1200, 10_800),
        };
        sleep(Duration::from_secs(time)).await;
        self.settle().await;
        let mut world = lock(&self.world);
        let (now, at) = (world.time(), world.now());
        for (index, domain) in world.domains.iter_mut().enumerate() {
            domain.issuer.publish_due(now);
            let held = self.gateway.followers[index].status().held_back.is_some();
            domain.directory.model.decide(held, at);
            domain.forget_unnamed_lists();
        }
    }

    /// Waits until no response and no file is being processed.
    pub async fn settle(&self) {
        loop {
            // The clock advances by itself only while every thread is idle.
            sleep(Duration::from_millis(1)).await;
            if lock(&self.world).timing_out == 0 {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Changes something.
    async fn disturb(&mut self) {
        let domain = self.random.below(2) as usize;
        match self.random.below(100) {
            0..=21 => self.change_directory(domain),
            22..=34 => self.revoke_or_publish(domain),
            35..=56 => self.break_or_repair_directory(domain),
            57..=76 => self.break_or_repair_issuer(domain),
            77..=82 => self.change_clock(),
            83..=90 => self.restart().await,
            91..=94 => self.approve(domain).await,
            95..=97 => self.fill_or_free_disk(),
            _ => {}
        }
    }

    /// The disk becomes full, or has room again.
    fn fill_or_free_disk(&mut self) {
        self.disk_is_full = !self.disk_is_full;
        let mut world = lock(&self.world);
        disk::fail_writes(self.folder.path(), &world.domains, self.disk_is_full);
        for domain in &mut world.domains {
            // What is received from now on can be lost at a crash.
            domain.directory.model.was_full = true;
        }
        drop(world);
        self.note(&format!("disk full: {}", self.disk_is_full));
    }

    fn note(&mut self, event: &str) {
        let elapsed = lock(&self.world).time();
        self.events.push(format!("{elapsed} {event}"));
        if self.events.len() > 40 {
            self.events.remove(0);
        }
    }

    /// An administrator adds or removes an authority, or changes a device.
    fn change_directory(&mut self, domain: usize) {
        let mut world = lock(&self.world);
        let directory = &mut world.domains[domain].directory;
        let event = if self.random.chance(50) {
            let mut listing = directory.listing().clone();
            let authority = self.random.below(AUTHORITIES as u64) as usize;
            if !listing.remove(&authority) {
                listing.insert(authority);
            }
            if listing.is_empty() {
                return;
            }
            let event = format!("{domain}: configuration becomes {listing:?}");
            directory.listings.push(listing);
            event
        } else {
            let devices = directory.devices();
            let device = self.random.below(2 * AUTHORITIES as u64) as usize;
            let state = match self.random.below(5) {
                0 if devices.len() > 2 => None,
                1..=2 => Some(false),
                _ => Some(true),
            };
            directory.log.push((device, state));
            format!("{domain}: device {device} becomes {state:?}")
        };
        drop(world);
        self.directory_since[domain] = Instant::now();
        self.note(&event);
    }

    fn revoke_or_publish(&mut self, domain: usize) {
        let mut world = lock(&self.world);
        let now = world.time();
        let issuer = &mut world.domains[domain].issuer;
        let authority = self.random.below(AUTHORITIES as u64) as usize;
        let mut event = format!("{domain}: authority {authority} publishes");
        if self.random.chance(40) {
            let serial = 10 + self.random.below(2) as u8;
            issuer.lists[authority].revoked.insert(serial);
            event += &format!(", and revokes {serial}");
        }
        issuer.publish(authority, now);
        drop(world);
        self.issuer_since[domain] = Instant::now();
        self.note(&event);
    }

    fn break_or_repair_directory(&mut self, domain: usize) {
        use directory::Fault::*;
        let throttled = Throttled(self.random.between(1, 1200));
        let faults = [Down, Error, Slow, throttled, Truncated, Garbage, Older, Empty, Forgotten];
        let fault = if self.random.chance(50) { None } else { self.random.pick(&faults) };
        lock(&self.world).domains[domain].directory.fault = fault;
        self.directory_since[domain] = Instant::now();
        self.note(&format!("{domain}: directory {fault:?}"));
    }

    fn break_or_repair_issuer(&mut self, domain: usize) {
        use issuer::Fault::*;
        let faults = [Down, Error, Slow, Garbage, Truncated, Older, Foreign, Stale];
        let fault = if self.random.chance(50) { None } else { self.random.pick(&faults) };
        lock(&self.world).domains[domain].issuer.fault = fault;
        self.issuer_since[domain] = Instant::now();
        self.note(&format!("{domain}: CRL server {fault:?}"));
    }

    fn change_clock(&mut self) {
        let error = match self.random.below(4) {
            0 => self.random.between(60, 86_400) as i64,
            1 => -(self.random.between(60, 86_400) as i64),
            _ => 0,
        };
        lock(&self.world).clock_error = error;
        self.clock_changed = Instant::now();
        self.note(&format!("clock is wrong by {error} s"));
    }

    /// The operator approves the response that is held back.
    async fn approve(&mut self, domain: usize) {
        let handle = self.gateway.followers[domain].clone();
        let Some(held) = handle.status().held_back else { return };
        {
            // Before the command, because a poll follows it at once.
            let mut world = lock(&self.world);
            let at = world.now();
            world.domains[domain].directory.model.approve(at);
        }
        let approved = handle.approve(&held.digest).await;
        self.settle().await;
        // The error of the last poll is gone until the next one fails.
        self.directory_since[domain] = Instant::now();
        self.note(&format!("{domain}: approval of the held change: {:?}", approved.err()));
    }

    /// The process crashes and starts again, possibly with a damaged file.
    async fn restart(&mut self) {
        self.gateway.crash().await;
        self.settle().await;
        let jumped = self.clock_changed.elapsed() < Duration::from_secs(1000);
        let mut event = "restart".to_owned();
        {
            let mut world = lock(&self.world);
            let at = world.now();
            for domain in &mut world.domains {
                if domain.directory.model.was_full {
                    domain.issuer.lists.iter_mut().for_each(|lists| lists.is_unknown = true);
                }
                domain.directory.model.restarted(at, jumped);
            }
            let domain = self.random.below(2) as usize;
            if self.disk_is_full {
                // A start opens its folders: an operator made room.
                self.disk_is_full = false;
                disk::fail_writes(self.folder.path(), &world.domains, false);
                event += " with room on the disk";
            } else if self.random.chance(50)
                && let Some(what) =
                    disk::damage(&mut self.random, self.folder.path(), &mut world.domains[domain])
            {
                event += &format!(" with damaged {what}");
            }
        }
        self.started = Instant::now();
        self.gateway = Gateway::start(&self.world, self.folder.path());
        self.settle().await;
        self.note(&event);
    }
}
