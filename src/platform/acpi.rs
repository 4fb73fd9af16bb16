//! ACPI tables of a hardware-reduced machine.
//!
//! ```text
//! ACPI_TABLES   RSDP   where the XSDT is
//!               XSDT   where FADT and MADT are
//!               FADT   which legacy hardware is absent; power-off and reset registers
//!               MADT   processors, I/O APIC, NMI wiring
//!               DSDT   devices that cannot be probed, in AML
//! ```
//!
//! "Hardware-reduced" says that the registers every PC has for power management (PM1 blocks, PM
//! timer, SCI, FACS) do not exist: two ports to switch off and one to reset remain. Processors
//! have no objects in the DSDT though ACPI 8.4 wants them: they would only name power states we
//! do not have, Linux takes processors from the MADT, and each object costs boot time.
//!
//! The loader calls [`build`], copies the bytes to `layout::ACPI_TABLES` and tells the kernel
//! where the RSDP is; the RSDP also lies where a scan finds it.
//!
//! Sources: `[acpi]` Advanced Configuration and Power Interface 6.4, January 2021; `[linux]`
//! `arch/x86/kernel/acpi/boot.c`, `drivers/rtc/rtc-cmos.c`, v6.12.
//! Read next: [`super::mptable`], the same machine in the words of 1994.

use acpi_tables::aml::{self, Path};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::GuestAddress;

use super::{LAST_XAPIC_ID, ioapic_id, low_half};
use crate::config::Irqchip;
use crate::devices::{reset, sleep};
use crate::memory::layout::{
    ACPI_SLEEP_PORT, ACPI_TABLES, ACPI_TABLES_MAX_SIZE, COM1_GSI, COM1_PORT, COM1_PORTS,
    I8042_PORT, IOAPIC, LOCAL_APIC, RTC_PORT, RTC_PORTS,
};

/// Who made the tables.
const OEM_ID: [u8; 6] = *b"COTTGE";
/// Which tables they are.
const OEM_TABLE_ID: [u8; 8] = *b"COTTAGE ";
/// Which edition of them.
const OEM_REVISION: u32 = 1;
/// Bytes of a table's common header. `[acpi]` 5.2.6
const HEADER_SIZE: u32 = 36;
/// Tables start on this boundary; the RSDP must, the others look better in a dump.
const ALIGNMENT: usize = 16;

/// A virtio-mmio device to describe: its register window and its interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// First guest-physical address of the window; windows lie below 4 GiB.
    pub base: u32,
    /// Bytes of the window.
    pub size: u32,
    /// Global system interrupt, edge-triggered.
    pub gsi: u32,
}

/// The tables, ready to be copied to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiImage {
    /// Everything, to be written at `layout::ACPI_TABLES`.
    pub bytes: Vec<u8>,
    /// Guest-physical address of the RSDP.
    pub rsdp: GuestAddress,
}

/// What can go wrong with ACPI tables.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The memory map has not enough room.
    #[error(
        "Cannot describe {vcpus} vCPUs and {devices} virtio-mmio devices in ACPI tables: they take \
         {size:#x} bytes, the memory map has {limit:#x}"
    )]
    TooLarge {
        /// Processors wanted.
        vcpus: u32,
        /// Devices wanted.
        devices: usize,
        /// Bytes the tables take.
        size: u64,
        /// Bytes there are.
        limit: u64,
    },
}

/// Builds the tables of a machine with `vcpus` processors, this irqchip and virtio-mmio `devices`.
///
/// # Errors
/// [`Error::TooLarge`] when they do not fit `layout::ACPI_TABLES_MAX_SIZE`; that takes many times
/// the processors that cottage gives a guest, or hundreds of devices.
pub fn build(vcpus: u32, chip: Irqchip, devices: &[MmioDevice]) -> Result<AcpiImage, Error> {
    // Pointers go from the first table to the last, so the last is placed first: the sizes of
    // the tables before it do not depend on what they point to.
    let mut image = Image::new(Rsdp::len() + xsdt(&[0; 2]).len());
    let dsdt = image.place(&dsdt(devices));
    let fadt = image.place(&fadt(dsdt));
    let madt = image.place(&madt(vcpus, chip));
    let bytes = image.finish(&[fadt, madt]);

    let size = bytes.len() as u64;
    if size > ACPI_TABLES_MAX_SIZE {
        return Err(Error::TooLarge {
            vcpus,
            devices: devices.len(),
            size,
            limit: ACPI_TABLES_MAX_SIZE,
        });
    }
    Ok(AcpiImage {
        bytes,
        rsdp: ACPI_TABLES,
    })
}

/// The tables after RSDP and XSDT, as they are placed one after the other.
struct Image {
    /// Offset of `bytes` from `ACPI_TABLES`.
    start: usize,
    bytes: Vec<u8>,
}

impl Image {
    /// Leaves room for RSDP and XSDT, `reserved` bytes together.
    fn new(reserved: usize) -> Self {
        let bytes = Vec::new();
        let start = reserved.next_multiple_of(ALIGNMENT) + ALIGNMENT;
        Self { start, bytes }
    }

    /// Adds a table and returns its guest-physical address.
    fn place(&mut self, table: &[u8]) -> u64 {
        let offset = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(offset, 0);
        self.bytes.extend(table);
        ACPI_TABLES.0 + (self.start + offset) as u64
    }

    /// Puts RSDP and XSDT before the tables; the XSDT points to `entries`.
    fn finish(self, entries: &[u64]) -> Vec<u8> {
        let xsdt_offset = Rsdp::len().next_multiple_of(ALIGNMENT);
        let mut bytes = Vec::new();
        Rsdp::new(OEM_ID, ACPI_TABLES.0 + xsdt_offset as u64).to_aml_bytes(&mut bytes);
        bytes.resize(xsdt_offset, 0);
        bytes.extend(xsdt(entries));
        bytes.resize(self.start, 0);
        bytes.extend(self.bytes);
        bytes
    }
}

/// `[acpi]` 5.2.8: the list of tables.
fn xsdt(entries: &[u64]) -> Vec<u8> {
    let mut table = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for entry in entries {
        table.add_entry(*entry);
    }
    to_bytes(&table)
}

/// `[acpi]` 5.2.9: what fixed hardware there is, which here means what there is not.
fn fadt(dsdt: u64) -> Vec<u8> {
    /// VGA Not Present. The other bits stay 0, and each says something: no user-visible legacy
    /// devices, so Linux does not look for a PnP BIOS; no 8042, so it does not probe for a
    /// keyboard and wait; MSI works; the CMOS clock is there. `[acpi]` 5.2.9.3
    const IAPC_BOOT_ARCH: u16 = 1 << 2;

    let mut table = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // WBINVD works as on every PC since the i486.
        .flag(Flags::Wbinvd)
        // 1 means "not a fixed-hardware button", and is also what a machine without one says.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        // 1 means that no fixed register tells of an RTC wake-up.
        .flag(Flags::FixRtc);
    table.fadt_minor_version = 4; // of ACPI 6.4
    table.iapc_boot_arch = IAPC_BOOT_ARCH.into();
    table.reset_reg = io_register(I8042_PORT + reset::COMMAND);
    table.reset_value = reset::PULSE_RESET;
    table.sleep_control_reg = io_register(ACPI_SLEEP_PORT);
    table.sleep_status_reg = io_register(ACPI_SLEEP_PORT + 1);
    to_bytes(&table.finalize())
}

/// `[acpi]` 5.2.3.2: a byte-wide register at an I/O port.
fn io_register(port: u16) -> GAS {
    let (width, offset) = (8, 0); // in bits
    let size = AccessSize::ByteAccess;
    GAS::new(AddressSpace::SystemIo, width, offset, size, port.into())
}

/// `[acpi]` 5.2.12: interrupt controllers.
fn madt(vcpus: u32, chip: Irqchip) -> Vec<u8> {
    /// What ACPI 6.4 has.
    const REVISION: u8 = 5;
    /// The processor is ready for use. `[acpi]` table 5.47
    const ENABLED: u8 = 1 << 0;

    let mut table = Sdt::new(
        *b"APIC",
        HEADER_SIZE,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    let mut body = Vec::new();
    body.extend(low_half(LOCAL_APIC));
    // [acpi] table 5.44: PCAT_COMPAT, bit 0, says that there are 8259s.
    body.extend([u8::from(chip == Irqchip::Full), 0, 0, 0]);

    // Processor n has APIC id n and the UID n.
    for id in 0..vcpus {
        let [low, ..] = id.to_le_bytes();
        let [a, b, c, d] = id.to_le_bytes();
        if id <= LAST_XAPIC_ID {
            body.extend([0, 8, low, low, ENABLED, 0, 0, 0]); // [acpi] 5.2.12.2
        } else {
            // [acpi] 5.2.12.12: reserved, id, flags, UID
            body.extend([9, 16, 0, 0, a, b, c, d, ENABLED, 0, 0, 0, a, b, c, d]);
        }
    }
    // [acpi] 5.2.12.3: id, reserved, address, first global interrupt. No interrupt source
    // overrides: interrupt n is pin n.
    body.extend([1, 12, ioapic_id(vcpus), 0]);
    body.extend(low_half(IOAPIC));
    body.extend([0; 4]);
    // NMI at LINT1 of every processor, polarity and trigger as usual. [acpi] 5.2.12.7
    body.extend([4, 6, 0xff, 0, 0, 1]);
    if vcpus > LAST_XAPIC_ID + 1 {
        // [acpi] 5.2.12.13: the same for processors that only an x2APIC entry names
        body.extend([10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    }
    table.append_slice(&body);
    table.as_slice().to_vec()
}

/// `[acpi]` 5.2.11.1: devices and the sleep state, in AML.
fn dsdt(devices: &[MmioDevice]) -> Vec<u8> {
    /// With revision 1 AML would have 32-bit integers.
    const REVISION: u8 = 2;

    let mut body = Vec::new();
    // [acpi] 7.4.2.5: element 0 goes to the sleep control register; PCs give four.
    let s5 = aml::Package::new(vec![&sleep::SLEEP_TYPE_S5, &0_u8, &0_u8, &0_u8]);
    aml::Name::new(Path::new("\\_S5_"), &s5).to_aml_bytes(&mut body);

    let mut contents = Vec::new();
    com1(&mut contents);
    rtc(&mut contents);
    for (index, device) in devices.iter().enumerate() {
        virtio(index, *device, &mut contents);
    }
    body.extend(aml::Scope::raw(Path::new("\\_SB_"), contents));

    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_SIZE,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(&body);
    table.as_slice().to_vec()
}

/// The console. Without it Linux finds the port by its legacy list, but has no interrupt for it:
/// on a machine without 8259, IRQ 4 exists only once a device claims it.
fn com1(sink: &mut dyn AmlSink) {
    let ports = io_ports(COM1_PORT, COM1_PORTS);
    let irq = edge_triggered(COM1_GSI);
    let resources = aml::ResourceTemplate::new(vec![&ports, &irq]);
    device("COM1", &aml::EISAName::new("PNP0501"), 0, &resources, sink);
}

/// The clock, without interrupt. Without this device Linux makes up an RTC with interrupt 8.
fn rtc(sink: &mut dyn AmlSink) {
    let ports = io_ports(RTC_PORT, RTC_PORTS);
    let resources = aml::ResourceTemplate::new(vec![&ports]);
    device("RTC_", &aml::EISAName::new("PNP0B00"), 0, &resources, sink);
}

/// A virtio device; Linux's virtio-mmio driver knows it by the id LNRO0005.
fn virtio(index: usize, mmio: MmioDevice, sink: &mut dyn AmlSink) {
    // Three digits name 4,096 devices, more than the memory map has room to describe.
    let name = format!("V{:03X}", index % 0x1000);
    let window = aml::Memory32Fixed::new(true, mmio.base, mmio.size);
    let irq = edge_triggered(mmio.gsi);
    let resources = aml::ResourceTemplate::new(vec![&window, &irq]);
    device(&name, &"LNRO0005", index, &resources, sink);
}

/// `[acpi]` 6.1: a device with its hardware id, its number among those of that id, and what it
/// occupies.
fn device(name: &str, hid: &dyn Aml, uid: usize, resources: &dyn Aml, sink: &mut dyn AmlSink) {
    let hid = aml::Name::new(Path::new("_HID"), hid);
    let uid = aml::Name::new(Path::new("_UID"), &uid);
    let resources = aml::Name::new(Path::new("_CRS"), resources);
    aml::Device::new(Path::new(name), vec![&hid, &uid, &resources]).to_aml_bytes(sink);
}

/// `[acpi]` 6.4.2.5: `count` ports from `first`, nowhere else.
fn io_ports(first: u16, count: u16) -> aml::IO {
    let [count, ..] = count.to_le_bytes();
    aml::IO::new(first, first, 1, count)
}

/// `[acpi]` 6.4.3.6: an interrupt that is edge-triggered, active high and not shared. The extended
/// form takes any number; the short IRQ form means an input of the 8259 that we do not have.
fn edge_triggered(gsi: u32) -> aml::Interrupt {
    let (consumer, edge, active_low, shared) = (true, true, false, false);
    aml::Interrupt::new(consumer, edge, active_low, shared, gsi)
}

fn to_bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: MmioDevice = MmioDevice {
        base: 0xc000_1000,
        size: 0x1000,
        gsi: 16,
    };

    fn image(vcpus: u32, devices: &[MmioDevice]) -> AcpiImage {
        build(vcpus, Irqchip::Split, devices).unwrap()
    }

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// The table at a guest-physical address, as long as its header says.
    fn table_at(image: &AcpiImage, address: u64) -> Vec<u8> {
        let bytes = &image.bytes[usize::try_from(address - ACPI_TABLES.0).unwrap()..];
        let length = usize::try_from(u32_at(bytes, 4)).unwrap();
        bytes[..length].to_vec()
    }

    fn xsdt_of(image: &AcpiImage) -> Vec<u8> {
        table_at(image, u64_at(&image.bytes, 24))
    }

    fn fadt_of(image: &AcpiImage) -> Vec<u8> {
        table_at(image, u64_at(&xsdt_of(image), 36))
    }

    fn madt_of(image: &AcpiImage) -> Vec<u8> {
        table_at(image, u64_at(&xsdt_of(image), 44))
    }

    fn dsdt_of(image: &AcpiImage) -> Vec<u8> {
        table_at(image, u64_at(&fadt_of(image), 140))
    }

    fn contains(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn acpi_5_2_5_3_rsdp_stands_first_and_points_to_the_xsdt() {
        let image = image(1, &[]);
        assert_eq!(image.rsdp, ACPI_TABLES);
        let rsdp = &image.bytes[..36];
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(sum(&rsdp[..20]), 0, "checksum of what ACPI 1.0 had");
        assert_eq!(&rsdp[9..15], b"COTTGE");
        assert_eq!(rsdp[15], 2, "revision");
        assert_eq!(u32_at(rsdp, 16), 0, "no RSDT");
        assert_eq!(u32_at(rsdp, 20), 36);
        assert_eq!(u64_at(rsdp, 24), ACPI_TABLES.0 + 48);
        assert_eq!(sum(rsdp), 0, "extended checksum");
    }

    #[test]
    fn acpi_table_5_44_pcat_compat_is_set_only_where_there_are_8259s() {
        let flags = |chip| {
            let bytes = build(1, chip, &[]).unwrap().bytes;
            let madt = bytes.windows(4).position(|name| name == b"APIC").unwrap();
            bytes[madt + 40]
        };
        assert_eq!([Irqchip::Split, Irqchip::Full].map(flags), [0, 1]);
    }

    #[test]
    fn acpi_5_2_8_xsdt_lists_fadt_and_madt() {
        let image = image(1, &[]);
        let xsdt = xsdt_of(&image);
        assert_eq!(&xsdt[..4], b"XSDT");
        assert_eq!(xsdt.len(), 36 + 2 * 8);
        assert_eq!(sum(&xsdt), 0);
        assert_eq!(&fadt_of(&image)[..4], b"FACP");
        assert_eq!(&madt_of(&image)[..4], b"APIC");
    }

    #[test]
    fn tables_do_not_overlap() {
        let image = image(2, &[DISK]);
        let total: usize = [xsdt_of, fadt_of, madt_of, dsdt_of]
            .iter()
            .map(|table| table(&image).len().next_multiple_of(ALIGNMENT))
            .sum();
        let last = image.bytes.len().next_multiple_of(ALIGNMENT);
        assert_eq!(Rsdp::len().next_multiple_of(ALIGNMENT) + total, last);
    }

    #[test]
    fn acpi_5_2_9_fadt_is_revision_6_4_and_sums_to_zero() {
        let fadt = fadt_of(&image(1, &[]));
        assert_eq!(fadt.len(), 276);
        assert_eq!((fadt[8], fadt[131]), (6, 4));
        assert_eq!(sum(&fadt), 0);
    }

    #[test]
    fn acpi_5_2_9_fadt_flags_say_hardware_reduced_with_reset_and_no_fixed_buttons() {
        let flags = u32_at(&fadt_of(&image(1, &[])), 112);
        let expected = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 20;
        assert_eq!(flags, expected);
    }

    #[test]
    fn acpi_5_2_9_3_boot_arch_has_no_8042_and_no_vga_but_msi_and_cmos_clock() {
        let fadt = fadt_of(&image(1, &[]));
        assert_eq!(fadt[109..111], [1 << 2, 0]);
    }

    #[test]
    fn acpi_4_1_fadt_of_reduced_hardware_leaves_fixed_registers_zero() {
        let fadt = fadt_of(&image(1, &[]));
        assert!(fadt[36..109].iter().all(|byte| *byte == 0));
        assert!(fadt[132..140].iter().all(|byte| *byte == 0), "no FACS");
        assert!(fadt[148..244].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn acpi_4_8_3_6_reset_register_is_the_i8042_command_port() {
        let fadt = fadt_of(&image(1, &[]));
        assert_eq!(fadt[116..128], [1, 8, 0, 1, 0x64, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(fadt[128], 0xfe);
    }

    #[test]
    fn acpi_4_8_3_7_sleep_registers_are_ports_0x600_and_0x601() {
        let fadt = fadt_of(&image(1, &[]));
        assert_eq!(fadt[244..256], [1, 8, 0, 1, 0x00, 6, 0, 0, 0, 0, 0, 0]);
        assert_eq!(fadt[256..268], [1, 8, 0, 1, 0x01, 6, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn acpi_5_2_12_madt_lists_processors_then_the_ioapic_then_nmi() {
        let madt = madt_of(&image(2, &[]));
        assert_eq!(madt[8], 5, "revision");
        assert_eq!(sum(&madt), 0);
        assert_eq!(u32_at(&madt, 36), 0xfee0_0000);
        assert_eq!(u32_at(&madt, 40), 0, "no 8259");
        assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
        assert_eq!(madt[52..60], [0, 8, 1, 1, 1, 0, 0, 0]);
        assert_eq!(madt[60..72], [1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        assert_eq!(madt[72..], [4, 6, 0xff, 0, 0, 1]);
    }

    #[test]
    fn acpi_5_2_12_12_processor_255_needs_an_x2apic_entry() {
        let madt = madt_of(&image(256, &[]));
        let at = 44 + 254 * 8;
        assert_eq!(madt[at..at + 8], [0, 8, 254, 254, 1, 0, 0, 0]);
        let x2apic = [9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0];
        assert_eq!(madt[at + 8..at + 24], x2apic);
        let nmi = [10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0];
        assert_eq!(madt[madt.len() - 12..], nmi);
    }

    #[test]
    fn machine_with_255_processors_needs_no_x2apic_entry() {
        let madt = madt_of(&image(255, &[]));
        assert_eq!(madt.len(), 44 + 255 * 8 + 12 + 6);
    }

    #[test]
    fn acpi_7_4_2_5_dsdt_names_the_soft_off_state() {
        let dsdt = dsdt_of(&image(1, &[]));
        assert_eq!((&dsdt[..4], dsdt[8]), (&b"DSDT"[..], 2));
        assert_eq!(sum(&dsdt), 0);
        // NameOp, root, name; PackageOp, length, 4 elements: byte 5 and three zeros
        let s5 = b"\x08\\_S5_\x12\x07\x04\x0a\x05\x00\x00\x00";
        assert!(contains(&dsdt, s5));
    }

    #[test]
    fn acpi_6_4_dsdt_gives_com1_its_ports_and_edge_interrupt() {
        let dsdt = dsdt_of(&image(1, &[]));
        let ports = [0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8];
        // consumer, edge-triggered, active high, exclusive; one interrupt: 4
        let irq = [0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0];
        assert!(contains(&dsdt, &[&ports[..], &irq[..]].concat()));
    }

    #[test]
    fn acpi_6_4_dsdt_gives_the_rtc_ports_and_no_interrupt() {
        let dsdt = dsdt_of(&image(1, &[]));
        let ports_and_end = [0x47, 1, 0x70, 0, 0x70, 0, 1, 2, 0x79, 0];
        assert!(contains(&dsdt, &ports_and_end));
    }

    #[test]
    fn acpi_6_4_dsdt_gives_a_virtio_device_its_window_and_interrupt() {
        let dsdt = dsdt_of(&image(1, &[DISK]));
        let window = [0x86, 9, 0, 1, 0, 0x10, 0, 0xc0, 0, 0x10, 0, 0];
        let irq = [0x89, 6, 0, 0b0011, 1, 16, 0, 0, 0];
        assert!(contains(&dsdt, b"LNRO0005\0"));
        assert!(contains(&dsdt, &[&window[..], &irq[..]].concat()));
    }

    #[test]
    fn tables_that_outgrow_the_memory_map_are_refused_with_numbers() {
        let error = build(5000, Irqchip::Split, &[DISK])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("Cannot describe 5000 vCPUs and 1 virtio-mmio"),
            "{error}"
        );
        assert!(error.ends_with("the memory map has 0x10000"), "{error}");
    }

    #[test]
    fn more_devices_than_names_are_refused_not_a_panic() {
        assert!(build(1, Irqchip::Split, &[DISK; 4097]).is_err());
    }

    #[test]
    fn a_thousand_processors_fit() {
        assert!(build(1024, Irqchip::Split, &[DISK; 32]).is_ok());
    }
}
