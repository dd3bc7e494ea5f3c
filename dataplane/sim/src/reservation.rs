//! Reservations of the model storage: PERSISTENT RESERVE IN and OUT, RESERVE and
//! RELEASE (SPC-4 5.12, SPC-2 5.5), and what they let whom do.
//!
//! Initiator ports are told by name and ISID; there is one target port. What is
//! left out is refused: REGISTER AND MOVE, SPEC_I_PT, APTPL (a power failure
//! forgets everything).

use sluice_proto::scsi::reservation::{Change, Kind};
use sluice_proto::scsi::{Access, Sense, opcode, sense::SenseKey};

/// An initiator port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitiatorPort {
    pub name: String,
    pub isid: [u8; 6],
}

impl InitiatorPort {
    /// Its TransportID: 4 bytes, then the name with a NUL in a multiple of four (SPC-4 7.6.4.6).
    fn transport_id(&self) -> Vec<u8> {
        let digits: String = self.isid.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut text = format!("{},i,0x{digits}\0", self.name).into_bytes();
        text.resize(text.len().next_multiple_of(4), 0);
        let mut bytes = vec![0x45, 0];
        bytes.extend(u16::try_from(text.len()).expect("a name").to_be_bytes());
        bytes.extend(text);
        bytes
    }
}

/// How a command ends that reservations do not let go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Conflict,
    Sense(Sense),
}

/// A unit attention for the nexuses of a port.
pub type Told = (InitiatorPort, Sense);

#[derive(Debug, Default)]
pub struct Reservations {
    registrants: Vec<(InitiatorPort, u64)>,
    held: Option<(Kind, InitiatorPort)>,
    /// By RESERVE.
    reserved: Option<InitiatorPort>,
    generation: u32,
    /// READ FULL STATUS is not known, as in many targets.
    pub no_full_status: bool,
}

const INVALID_TYPE: Refused = Refused::Sense(Sense::INVALID_FIELD_IN_CDB);
const RELEASED: Sense = Sense::new(SenseKey::UNIT_ATTENTION, 0x2A, 0x04);
const RESERVATIONS_PREEMPTED: Sense = Sense::new(SenseKey::UNIT_ATTENTION, 0x2A, 0x03);
const REGISTRATIONS_PREEMPTED: Sense = Sense::new(SenseKey::UNIT_ATTENTION, 0x2A, 0x05);

impl Reservations {
    pub fn is_free(&self) -> bool {
        self.held.is_none() && self.reserved.is_none()
    }

    /// Nobody is registered, or holds anything.
    pub fn is_unused(&self) -> bool {
        self.is_free() && self.registrants.is_empty()
    }

    /// Power is lost: all of it.
    pub fn forget(&mut self) {
        self.registrants.clear();
        self.held = None;
        self.reserved = None;
    }

    /// A reset, or the loss of this port's nexus: what RESERVE has reserved is free.
    pub fn end_reserve(&mut self, of: Option<&InitiatorPort>) {
        if of.is_none() || self.reserved.as_ref() == of {
            self.reserved = None;
        }
    }

    fn key(&self, port: &InitiatorPort) -> Option<u64> {
        let known = self.registrants.iter().find(|(known, _)| known == port);
        known.map(|&(_, key)| key)
    }

    fn holds(&self, port: &InitiatorPort) -> bool {
        self.held.as_ref().is_some_and(|(kind, holder)| {
            holder == port || kind.is_held_by_all() && self.key(port).is_some()
        })
    }

    /// Whether the port may send this command now.
    pub fn judge(
        &self,
        port: &InitiatorPort,
        cdb: &[u8; 16],
        access: Access,
    ) -> Result<(), Refused> {
        if self.reserved.as_ref().is_some_and(|holder| holder != port) {
            let always = matches!(
                cdb[0],
                opcode::REQUEST_SENSE | opcode::RELEASE_6 | opcode::RELEASE_10
            );
            return if always {
                Ok(())
            } else {
                Err(Refused::Conflict)
            };
        }
        let change = Change::from_cdb(cdb);
        if matches!(change, Some(Change::Reserve | Change::Release)) {
            // SPC-4 5.12.3: not beside persistent reservations.
            let free = self.registrants.is_empty();
            return if free { Ok(()) } else { Err(Refused::Conflict) };
        }
        let Some((kind, _)) = &self.held else {
            return Ok(());
        };
        let admitted = self.holds(port) || kind.admits_registrants() && self.key(port).is_some();
        let free = admitted
            || change.is_some()
            || match access {
                Access::None => true,
                Access::Read { .. } | Access::Range { changes: false, .. } => !kind.forbids_reads(),
                Access::Write { .. }
                | Access::Sync { .. }
                | Access::Range { changes: true, .. }
                | Access::Medium => false,
            };
        if free { Ok(()) } else { Err(Refused::Conflict) }
    }

    /// PERSISTENT RESERVE IN.
    pub fn read(&self, cdb: &[u8; 16]) -> Result<Vec<u8>, Refused> {
        let mut list = Vec::new();
        match cdb[1] & 0x1F {
            0x00 => {
                for (_, key) in &self.registrants {
                    list.extend(key.to_be_bytes());
                }
            }
            0x01 => {
                if let Some((kind, holder)) = &self.held {
                    let key = if kind.is_held_by_all() {
                        0
                    } else {
                        self.key(holder).expect("a holder is registered")
                    };
                    list.extend(key.to_be_bytes());
                    list.extend([0, 0, 0, 0, 0, kind.code(), 0, 0]);
                }
            }
            0x03 if !self.no_full_status => {
                for (port, key) in &self.registrants {
                    let transport = port.transport_id();
                    let kind = self.held.as_ref().map_or(0, |(kind, _)| kind.code());
                    let holds = self.holds(port);
                    list.extend(key.to_be_bytes());
                    list.extend([0; 4]);
                    list.extend([u8::from(holds), if holds { kind } else { 0 }]);
                    list.extend([0, 0, 0, 0, 0, 1]);
                    list.extend(
                        u32::try_from(transport.len())
                            .expect("a name")
                            .to_be_bytes(),
                    );
                    list.extend(transport);
                }
            }
            _ => return Err(Refused::Sense(Sense::INVALID_FIELD_IN_CDB)),
        }
        let mut answer = self.generation.to_be_bytes().to_vec();
        answer.extend(u32::try_from(list.len()).expect("short").to_be_bytes());
        answer.extend(list);
        Ok(answer)
    }

    /// RESERVE and RELEASE that [`Reservations::judge`] has let pass.
    pub fn reserve(&mut self, port: &InitiatorPort, change: Change) {
        match change {
            Change::Reserve => self.reserved = Some(port.clone()),
            Change::Release => self.end_reserve(Some(port)),
            Change::Persistent => unreachable!("its parameters say what it does"),
        }
    }

    /// PERSISTENT RESERVE OUT; what others are to be told.
    pub fn change(
        &mut self,
        port: &InitiatorPort,
        cdb: &[u8; 16],
        parameters: &[u8],
    ) -> Result<Vec<Told>, Refused> {
        let [Some(key), Some(action_key)] = [0, 8].map(|at| {
            let bytes = parameters.get(at..at + 8)?;
            Some(u64::from_be_bytes(bytes.try_into().ok()?))
        }) else {
            return Err(Refused::Sense(Sense::INVALID_FIELD_IN_PARAMETER_LIST));
        };
        let action = cdb[1] & 0x1F;
        let registered = self.key(port);
        if action == 0 && key != registered.unwrap_or(0)
            || matches!(action, 1..=5) && registered != Some(key)
        {
            return Err(Refused::Conflict);
        }
        match action {
            0 | 6 => {
                self.generation += 1;
                return Ok(self.register(port, action_key));
            }
            1 => {
                let kind = Kind::from_code(cdb[2]).ok_or(INVALID_TYPE)?;
                match &self.held {
                    None => self.held = Some((kind, port.clone())),
                    Some((held, _)) if *held == kind && self.holds(port) => {}
                    Some(_) => return Err(Refused::Conflict),
                }
            }
            2 if self.holds(port) => {
                let kind = Kind::from_code(cdb[2]).ok_or(INVALID_TYPE)?;
                if self.held.as_ref().is_some_and(|(held, _)| *held != kind) {
                    return Err(Refused::Sense(Sense::INVALID_FIELD_IN_CDB));
                }
                return Ok(self.release(port));
            }
            2 => {}
            3 => {
                self.generation += 1;
                self.held = None;
                let others = std::mem::take(&mut self.registrants);
                return Ok(told(port, others, RESERVATIONS_PREEMPTED));
            }
            4 | 5 => {
                self.generation += 1;
                return self.preempt(port, cdb, action_key);
            }
            _ => return Err(Refused::Sense(Sense::INVALID_FIELD_IN_CDB)),
        }
        Ok(Vec::new())
    }

    fn register(&mut self, port: &InitiatorPort, key: u64) -> Vec<Told> {
        let mut tell = Vec::new();
        if key == 0 {
            let holder = self.held.as_ref().is_some_and(|(_, holder)| holder == port);
            let last = self.registrants.len() == 1;
            let all = self
                .held
                .as_ref()
                .is_some_and(|(kind, _)| kind.is_held_by_all());
            if holder && (!all || last) {
                tell = self.release(port);
            }
            self.registrants.retain(|(known, _)| known != port);
            // One that all hold passes to the others.
            if let (Some((_, holder)), Some((other, _))) =
                (&mut self.held, self.registrants.first())
                && holder == port
            {
                *holder = other.clone();
            }
        } else if let Some((_, known)) =
            self.registrants.iter_mut().find(|(known, _)| known == port)
        {
            *known = key;
        } else {
            self.registrants.push((port.clone(), key));
        }
        tell
    }

    fn release(&mut self, port: &InitiatorPort) -> Vec<Told> {
        match self.held.take() {
            Some((kind, _)) if kind.admits_registrants() => {
                told(port, self.registrants.clone(), RELEASED)
            }
            _ => Vec::new(),
        }
    }

    fn preempt(
        &mut self,
        port: &InitiatorPort,
        cdb: &[u8; 16],
        key: u64,
    ) -> Result<Vec<Told>, Refused> {
        let takes = match &self.held {
            Some((kind, _)) if kind.is_held_by_all() => key == 0,
            Some((_, holder)) => self.key(holder) == Some(key),
            None => false,
        };
        let all = takes && key == 0;
        let hit = |known: &(InitiatorPort, u64)| known.0 != *port && (all || known.1 == key);
        let gone: Vec<_> = self
            .registrants
            .iter()
            .filter(|known| hit(known))
            .cloned()
            .collect();
        if gone.is_empty() && !takes {
            return Err(Refused::Conflict);
        }
        let kind = Kind::from_code(cdb[2]).ok_or(INVALID_TYPE)?;
        self.registrants.retain(|known| !hit(known));
        if takes {
            self.held = Some((kind, port.clone()));
        }
        Ok(told(port, gone, REGISTRATIONS_PREEMPTED))
    }
}

fn told(by: &InitiatorPort, others: Vec<(InitiatorPort, u64)>, sense: Sense) -> Vec<Told> {
    let others = others.into_iter().filter(|(port, _)| port != by);
    others.map(|(port, _)| (port, sense)).collect()
}
