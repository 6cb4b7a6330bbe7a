"""libbpf through ctypes: the one file that names its symbols.

The library is the system's own (`libbpf.so.1`, packaged by every distribution), because it follows the kernel. Here
are calls and nothing else: what is loaded, where it is attached and what is pinned is decided in `datapath.kernel`.

Laws:
  1. Every failure is a `BpfError`: the call, the error in words, and what the operator can do about it.
  2. Descriptors that a method returns belong to the caller. Those of an `Object` belong to it.
  3. ctypes lets go of the interpreter lock around every call: long ones (load, batches) are made in a thread.

Source: bpf(2), bpf.h and libbpf.h of libbpf 1.1; include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import re
from collections.abc import Callable
from ctypes import byref, c_char_p, c_size_t, c_uint32, c_uint64, c_void_p, sizeof
from typing import Any, Final, Self

from asynclb.native.bpf_values import (
    Attach,
    BatchOpts,
    BpfError,
    LibbpfMissingError,
    LinkInfo,
    LinkOpts,
    MapInfo,
    MapOpts,
    MapType,
    OpenOpts,
    TcHook,
    TcOpts,
    TestRun,
    TestRunOpts,
    XdpMode,
)

LIBRARY: Final = "libbpf.so.1"
OLDEST: Final = (1, 0)
"""The first version whose functions return errors as here. 1.1 is the one that is tested."""

LOADING: Final = "load programs"
"""The call that the verifier refuses."""
MMAPABLE: Final = 1 << 10
_LOG_BYTES: Final = 1 << 22  # the verifier's words on a program of this size, with room
_LOG_TAIL: Final = 2_000  # what it says at last is why it refused
_POINTERS: Final = (
    *("bpf_object__open_mem", "bpf_object__find_map_by_name", "bpf_object__find_program_by_name"),
    *("bpf_map__initial_value", "libbpf_version_string", "libbpf_set_print"),
)
_EXISTING: Final = 2  # BPF_EXIST
_TC_INGRESS: Final = 1
_TC_REPLACE: Final = 1


class Libbpf:
    """The library. Stateless; any thread may call it."""

    def __init__(self, name: str = LIBRARY) -> None:
        """Load it. Raises: LibbpfMissingError -> it is not installed, or too old."""
        try:
            self._c: Any = ctypes.CDLL(name, use_errno=True)
        except OSError as error:
            raise LibbpfMissingError(f"{name} cannot be loaded: {error}") from error
        try:
            for symbol in _POINTERS:
                getattr(self._c, symbol).restype = c_void_p
            self._c.libbpf_version_string.restype = c_char_p
        except AttributeError as error:
            raise LibbpfMissingError(f"{name} is too old: {error}") from error
        self.version: str = self._c.libbpf_version_string().decode().lstrip("v")
        if tuple(int(number) for number in re.findall(r"\d+", self.version)[:2]) < OLDEST:
            raise LibbpfMissingError(f"{name} is version {self.version}")
        self._c.libbpf_set_print(None)  # it would write to standard error; the reason is in the exception

    # Maps.

    def create_map(self, kind: MapType, name: str, key: int, value: int, entries: int, flags: int = 0) -> int:
        """Create a map that no program uses yet, and return its descriptor."""
        options = MapOpts(sizeof(MapOpts), flags=flags)
        return self._checked(
            f"create map {name!r}",
            self._c.bpf_map_create(kind, name.encode(), *map(c_uint32, (key, value, entries)), byref(options)),
        )

    def lookup(self, fd: int, key: bytes, size: int) -> bytes | None:
        """Return a value, or None. Shape: `size` for a per-CPU map is `possible_cpus` values of 8-byte multiples."""
        value = ctypes.create_string_buffer(size)
        done = self._c.bpf_map_lookup_elem(fd, key, value)
        if done == -errno.ENOENT:
            return None
        self._checked("look up a map", done)
        return value.raw

    def update(self, fd: int, key: bytes, value: bytes) -> None:
        """Set a value."""
        self._checked("update a map", self._c.bpf_map_update_elem(fd, key, value, c_uint64(0)))

    def replace(self, fd: int, key: bytes, value: bytes) -> bool:
        """Set the value of an entry that is there; return whether it was."""
        done = self._c.bpf_map_update_elem(fd, key, value, c_uint64(_EXISTING))
        if done == -errno.ENOENT:
            return False
        self._checked("update a map", done)
        return True

    def delete(self, fd: int, key: bytes) -> bool:
        """Delete an entry; return whether there was one."""
        done = self._c.bpf_map_delete_elem(fd, key)
        if done == -errno.ENOENT:
            return False
        self._checked("delete from a map", done)
        return True

    def lookup_batch(self, fd: int, batch: "Batch") -> bool:
        """Fill the batch with the entries after those of the last call; return whether there may be more."""
        options, count = BatchOpts(sizeof(BatchOpts)), c_uint32(batch.limit)
        first = byref(batch.cursor) if batch.begun else None
        done = self._c.bpf_map_lookup_batch(
            fd, first, byref(batch.cursor), batch.keys, batch.values, byref(count), byref(options)
        )
        if done not in (0, -errno.ENOENT):
            self._checked("look up a map by batches", done)
        batch.begun, batch.count = True, count.value
        return int(done) == 0

    def map_info(self, fd: int) -> MapInfo:
        """Return a map's shape."""
        words = self._info(fd)
        return MapInfo(*words[:6])

    # Objects, programs, links.

    def open_object(self, image: bytes, name: str) -> "Object":
        """Parse an ELF object; nothing reaches the kernel yet."""
        return Object(self._c, self._checked, image, name)

    def create_link(self, program: int, ifindex: int, attach: Attach, flags: int = 0) -> int:
        """Attach a program to an interface until the link's last descriptor and pin are gone."""
        options = LinkOpts(sizeof(LinkOpts), flags=flags)
        done = self._c.bpf_link_create(program, ifindex, attach, byref(options))
        return self._checked(f"attach to interface {ifindex} ({attach.name.lower()})", done)

    def attached(self, ifindex: int, attach: Attach) -> int:
        """Return how many programs are linked to an interface; none where the kernel knows no such links."""
        count = c_uint32()
        done = self._c.bpf_prog_query(ifindex, attach, 0, None, None, byref(count))
        if done in (-errno.EINVAL, -errno.ENODEV, -errno.ENOENT):
            return 0
        self._checked(f"ask for the programs of interface {ifindex}", done)
        return count.value

    def update_link(self, link: int, program: int) -> None:
        """Replace a link's program: each packet meets the old one or the new one."""
        self._checked("replace a link's program", self._c.bpf_link_update(link, program, None))

    def detach_link(self, link: int) -> None:
        """Take a link's program off its interface, whoever else holds the link."""
        self._checked("detach a link", self._c.bpf_link_detach(link))

    def link_info(self, fd: int) -> LinkInfo:
        """Return what a link joins."""
        words = self._info(fd)
        return LinkInfo(words[2], words[4])

    def program_id(self, fd: int) -> int:
        """Return a program's id, as `bpftool prog` shows it."""
        return self._info(fd)[1]

    def _info(self, fd: int) -> tuple[int, ...]:
        words, size = (c_uint32 * 64)(), c_uint32(256)
        self._checked("ask for information", self._c.bpf_obj_get_info_by_fd(fd, byref(words), byref(size)))
        return tuple(words)

    def tc_attach(self, ifindex: int, program: int, handle: int, priority: int) -> None:
        """Attach or replace a filter at the interface's clsact ingress, for kernels without tcx links."""
        hook = TcHook(sizeof(TcHook), ifindex, _TC_INGRESS)
        made = self._c.bpf_tc_hook_create(byref(hook))
        if made != -errno.EEXIST:
            self._checked(f"create clsact on interface {ifindex}", made)
        options = TcOpts(sizeof(TcOpts), program, _TC_REPLACE, 0, handle, priority)
        self._checked(f"attach to interface {ifindex} (clsact)", self._c.bpf_tc_attach(byref(hook), byref(options)))

    def tc_detach(self, ifindex: int, handle: int, priority: int) -> None:
        """Remove a filter; the qdisc stays, for others may use it."""
        hook = TcHook(sizeof(TcHook), ifindex, _TC_INGRESS)
        options = TcOpts(sizeof(TcOpts), 0, 0, 0, handle, priority)
        done = self._c.bpf_tc_detach(byref(hook), byref(options))
        if done not in (-errno.ENOENT, -errno.ENODEV, -errno.EINVAL):
            self._checked(f"detach from interface {ifindex} (clsact)", done)

    def test_run(self, program: int, data: bytes, *, context: bytes = b"", repeat: int = 1, flags: int = 0) -> TestRun:
        """Run a loaded program on a packet that goes nowhere (BPF_PROG_TEST_RUN)."""
        out, given = ctypes.create_string_buffer(len(data) + 512), ctypes.create_string_buffer(data, len(data))
        told = ctypes.create_string_buffer(context, max(1, len(context)))
        options = TestRunOpts(sizeof(TestRunOpts), repeat=repeat, flags=flags)
        options.data_in, options.data_size_in = ctypes.addressof(given), len(data)
        options.data_out, options.data_size_out = ctypes.addressof(out), len(out)
        if context:
            options.ctx_in, options.ctx_size_in = ctypes.addressof(told), len(context)
        self._checked("run a program", self._c.bpf_prog_test_run_opts(program, byref(options)))
        return TestRun(options.retval, out.raw[: options.data_size_out], options.duration)

    def possible_cpus(self) -> int:
        """Return how many values an entry of a per-CPU map has."""
        return self._checked("count processors", self._c.libbpf_num_possible_cpus())

    # Pins.

    def pin(self, fd: int, path: str) -> None:
        """Let a map, program or link live on under a path of a bpffs."""
        self._checked(f"pin {path}", self._c.bpf_obj_pin(fd, os.fsencode(path)))

    def pinned(self, path: str) -> int:
        """Return a descriptor of what is pinned there."""
        return self._checked(f"open {path}", self._c.bpf_obj_get(os.fsencode(path)))

    @staticmethod
    def _checked(call: str, done: int, detail: str = "") -> int:
        if done < 0:
            raise BpfError(call, -done if done > -4096 else ctypes.get_errno(), detail)
        return done


class Batch:
    """Memory for one batch of a hash map's entries, and where the next one begins. Owner: one walk.

    Shape: `count` entries are valid; at least as many as the map's fullest bucket must fit, or the walk fails.
    """

    def __init__(self, key_size: int, value_size: int, limit: int) -> None:
        self.key_size = key_size
        self.limit = limit
        self.count = 0
        self.begun = False
        self.cursor = (c_uint64 * 8)()  # of a hash map one word, of an array a key; more is not needed
        self.keys = ctypes.create_string_buffer(key_size * limit)
        self.values = ctypes.create_string_buffer(value_size * limit)

    def key(self, index: int) -> bytes:
        """Return one entry's key."""
        return ctypes.string_at(ctypes.addressof(self.keys) + index * self.key_size, self.key_size)


class Object:
    """An opened object. Owner: whoever opened it, who closes it; maps and programs end then unless held elsewhere."""

    def __init__(self, library: Any, checked: Callable[..., int], image: bytes, name: str) -> None:
        self._c = library
        self._checked = checked
        self._log = ctypes.create_string_buffer(_LOG_BYTES)
        options = OpenOpts(sizeof(OpenOpts), name.encode())
        options.kernel_log_buf, options.kernel_log_size = ctypes.addressof(self._log), _LOG_BYTES
        self._image = ctypes.create_string_buffer(image, len(image))
        self._object = c_void_p(library.bpf_object__open_mem(self._image, c_size_t(len(image)), byref(options)))
        if not self._object:
            raise BpfError(f"open object {name!r}", ctypes.get_errno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def shape(self, name: str) -> tuple[int, int, int]:
        """Return type, key size and value size of a map as the object declares it."""
        found = self._map(name)
        getters = (self._c.bpf_map__type, self._c.bpf_map__key_size, self._c.bpf_map__value_size)
        kind, key, value = (int(getter(found)) for getter in getters)
        return kind, key, value

    def set_entries(self, name: str, entries: int) -> None:
        """Set how many entries a map has."""
        self._checked(f"size map {name!r}", self._c.bpf_map__set_max_entries(self._map(name), c_uint32(entries)))

    def set_value_size(self, name: str, size: int) -> None:
        """Set how large a map's values are."""
        self._checked(f"size map {name!r}", self._c.bpf_map__set_value_size(self._map(name), c_uint32(size)))

    def reuse(self, name: str, fd: int) -> None:
        """Use a map that exists instead of creating one. Raises: BpfError -> its shape is another one."""
        self._checked(f"reuse map {name!r}", self._c.bpf_map__reuse_fd(self._map(name), fd))

    def initial(self, name: str) -> bytes:
        """Return the contents of a data section."""
        size = c_size_t()
        place = self._c.bpf_map__initial_value(self._map(name), byref(size))
        return ctypes.string_at(place, size.value) if place else b""

    def set_initial(self, name: str, value: bytes) -> None:
        """Replace the contents of a data section, before it is loaded."""
        done = self._c.bpf_map__set_initial_value(self._map(name), value, c_size_t(len(value)))
        self._checked(f"set section {name!r}", done)

    def choose(self, name: str, *, load: bool) -> None:
        """Say whether a program is loaded; a section that begins with `?` is not, unless it is chosen."""
        done = self._c.bpf_program__set_autoload(self._program(name), ctypes.c_bool(load))
        self._checked(f"choose program {name!r}", done)

    def load(self) -> None:
        """Create the maps and have the kernel verify the programs. Cost: some 100 ms; call it in a thread."""
        done = self._c.bpf_object__load(self._object)
        said = self._log.value.decode(errors="replace").strip()
        self._checked(LOADING, done, said[-_LOG_TAIL:])

    def map(self, name: str) -> int:
        """Return the descriptor of a loaded map."""
        return self._checked(f"map {name!r}", self._c.bpf_map__fd(self._map(name)))

    def program(self, name: str) -> int:
        """Return the descriptor of a loaded program."""
        return self._checked(f"program {name!r}", self._c.bpf_program__fd(self._program(name)))

    def close(self) -> None:
        """Give back memory and descriptors. Nothing may be called afterwards."""
        if self._object:
            self._c.bpf_object__close(self._object)
            self._object = c_void_p()

    def _program(self, name: str) -> c_void_p:
        found = c_void_p(self._c.bpf_object__find_program_by_name(self._object, name.encode()))
        if not found:
            raise BpfError(f"program {name!r} of the object", errno.ENOENT)
        return found

    def _map(self, name: str) -> c_void_p:
        found = c_void_p(self._c.bpf_object__find_map_by_name(self._object, name.encode()))
        if not found:
            raise BpfError(f"map {name!r} of the object", errno.ENOENT)
        return found


__all__ = [
    "LOADING",
    "Attach",
    "Batch",
    "BpfError",
    "Libbpf",
    "LibbpfMissingError",
    "MapInfo",
    "MapType",
    "Object",
    "XdpMode",
]
