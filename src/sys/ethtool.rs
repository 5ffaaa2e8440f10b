//! `ioctl(SIOCETHTOOL)`: the driver's name, its queues, its offload features.
//!
//! Numbers and layouts are those of `linux/ethtool.h`. Every structure there that is used here is made of 32-bit
//! words, and so are the buffers.

use super::device::DeviceSocket;
use rustix::io::Errno;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GRXRINGS: u32 = 0x2d;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// The string set that holds the names of the features.
const ETH_SS_FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN` in words: a name takes 32 bytes, padded with zeros.
const NAME_WORDS: usize = 8;

/// One offload feature of an interface, what `ethtool -k` shows a line for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's name for it, `rx-gro` and so on; `ethtool -K` takes it.
    pub name: String,
    /// Whether the user may change it; `ethtool -k` says `[fixed]` where not.
    pub changeable: bool,
    /// Whether the user wants it on; it may be off all the same because the driver cannot at present.
    pub requested: bool,
    /// Whether it is on.
    pub active: bool,
}

impl DeviceSocket {
    /// The name of the driver of interface `name`: `ixgbe`, `veth`, `bridge`.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the driver does not say.
    pub fn driver(&self, name: &str) -> Result<String, Errno> {
        let mut info = [0u32; 49];
        info[0] = ETHTOOL_GDRVINFO;
        // SAFETY: `struct ethtool_drvinfo` has 196 bytes, 49 words.
        unsafe { self.ethtool(name, &mut info) }?;
        Ok(text(&info[1..=NAME_WORDS]))
    }

    /// Whether interface `name` is up and has carrier.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the driver does not say.
    pub fn has_link(&self, name: &str) -> Result<bool, Errno> {
        let mut value = [ETHTOOL_GLINK, 0];
        // SAFETY: `struct ethtool_value` has 2 words.
        unsafe { self.ethtool(name, &mut value) }?;
        Ok(value[1] != 0)
    }

    /// The number of receive queues in use: those for receiving alone and those for both directions.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the driver knows no queues, or does not say how many.
    pub fn rx_queues(&self, name: &str) -> Result<u32, Errno> {
        match self.channels(name) {
            Ok(channels) => Ok(channels[5].saturating_add(channels[8])),
            // Some drivers, ixgbevf for one, answer only the older question.
            Err(Errno::OPNOTSUPP) => self.rx_rings(name),
            Err(error) => Err(error),
        }
    }

    /// The number of transmit queues in use: those for sending alone and those for both directions.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the driver does not say.
    pub fn tx_queues(&self, name: &str) -> Result<u32, Errno> {
        self.channels(name).map(|channels| channels[6].saturating_add(channels[8]))
    }

    /// The most receive queues that interface `name` can be given.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the driver does not say.
    pub fn max_rx_queues(&self, name: &str) -> Result<u32, Errno> {
        self.channels(name).map(|channels| channels[1].saturating_add(channels[4]))
    }

    /// [_, max_rx, max_tx, max_other, max_combined, rx, tx, other, combined]
    fn channels(&self, name: &str) -> Result<[u32; 9], Errno> {
        let mut channels = [0u32; 9];
        channels[0] = ETHTOOL_GCHANNELS;
        // SAFETY: `struct ethtool_channels` has 9 words.
        unsafe { self.ethtool(name, &mut channels) }?;
        Ok(channels)
    }

    fn rx_rings(&self, name: &str) -> Result<u32, Errno> {
        let mut rings = [0u32; 64];
        rings[0] = ETHTOOL_GRXRINGS;
        // SAFETY: `struct ethtool_rxnfc` without rules has 192 bytes, 48 words, and none were asked for.
        unsafe { self.ethtool(name, &mut rings) }?;
        // [cmd, flow_type, data (64 bits), ...]
        let [a, b, c, d] = rings[2].to_ne_bytes();
        let [e, f, g, h] = rings[3].to_ne_bytes();
        Ok(u64::from_ne_bytes([a, b, c, d, e, f, g, h]).try_into().unwrap_or(u32::MAX))
    }

    /// All offload features of interface `name`, in the kernel's order.
    ///
    /// # Errors
    /// `ENODEV`: no such interface.
    pub fn features(&self, name: &str) -> Result<Vec<Feature>, Errno> {
        let count = self.feature_count(name)?;
        let mut strings = vec![0u32; 3 + count * NAME_WORDS];
        strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
        // SAFETY: `struct ethtool_gstrings` has 3 words and then 32 bytes a string. The kernel writes as many as
        // it just said it has; that number is fixed when the kernel is built.
        unsafe { self.ethtool(name, &mut strings) }?;

        let blocks = count.div_ceil(32);
        let mut state = vec![0u32; 2 + blocks * 4];
        state[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
        // SAFETY: `struct ethtool_gfeatures` has 2 words and then 4 a block, `blocks` of them as it says.
        unsafe { self.ethtool(name, &mut state) }?;

        let feature = |i: usize| {
            // Per block of 32: [available, requested, active, never_changed]
            let bit = |word: usize| state[2 + i / 32 * 4 + word] >> (i % 32) & 1 != 0;
            Feature {
                name: text(&strings[3 + i * NAME_WORDS..][..NAME_WORDS]),
                changeable: bit(0) && !bit(3),
                requested: bit(1),
                active: bit(2),
            }
        };
        Ok((0..count).map(feature).collect())
    }

    /// Asks for features on or off, all in one request, by their place in what [`Self::features`] returns. The
    /// driver may decline in silence: read them back.
    ///
    /// # Errors
    /// `EPERM`: not root in the interface's namespace. `EINVAL`: a feature that cannot be asked for.
    pub fn set_features(&self, name: &str, wanted: &[(usize, bool)]) -> Result<(), Errno> {
        let blocks = self.feature_count(name)?.div_ceil(32);
        let mut request = vec![0u32; 2 + blocks * 2];
        request[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
        for &(i, on) in wanted {
            // Per block of 32: [valid, requested]
            let block = request.get_mut(2 + i / 32 * 2..).ok_or(Errno::INVAL)?;
            block[0] |= 1 << (i % 32);
            block[1] |= u32::from(on) << (i % 32);
        }
        // SAFETY: `struct ethtool_sfeatures` has 2 words and then 2 a block, `blocks` of them as it says.
        unsafe { self.ethtool(name, &mut request) }
    }

    fn feature_count(&self, name: &str) -> Result<usize, Errno> {
        // [cmd, reserved, sset_mask (64 bits), data]
        let mut info = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
        // The mask is one 64-bit number of the machine's byte order.
        let mask = (1u64 << ETH_SS_FEATURES).to_ne_bytes();
        info[2] = u32::from_ne_bytes([mask[0], mask[1], mask[2], mask[3]]);
        info[3] = u32::from_ne_bytes([mask[4], mask[5], mask[6], mask[7]]);
        // SAFETY: `struct ethtool_sset_info` has 4 words and one more for each set in the mask: one.
        unsafe { self.ethtool(name, &mut info) }?;
        Ok(info[4] as usize)
    }

    /// One ethtool command; its first word is the command's number.
    ///
    /// # Safety
    /// `command` must be at least as long as the structure that this number makes the kernel read and write.
    unsafe fn ethtool(&self, name: &str, command: &mut [u32]) -> Result<(), Errno> {
        let argument = libc::__c_anonymous_ifr_ifru { ifru_data: command.as_mut_ptr().cast() };
        // SAFETY: SIOCETHTOOL follows `ifru_data` to the command's structure, which the caller's buffer holds.
        unsafe { self.ioctl(name, libc::SIOCETHTOOL, argument) }.map(|_| ())
    }
}

/// A zero-padded string of bytes held in words.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn text_ends_at_the_first_zero() {
        let words = [u32::from_ne_bytes(*b"rx-g"), u32::from_ne_bytes(*b"ro\0x"), 0];
        assert_eq!(text(&words), "rx-gro");
    }
}
