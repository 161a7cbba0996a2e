//go:build cgo && linux

package xla

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>

typedef int (*init_fn)(unsigned);
typedef int (*device_fn)(int *, int);
typedef int (*retain_fn)(void **, int);
typedef int (*current_fn)(void *);
typedef int (*read_fn)(void *, unsigned long long, size_t);
typedef int (*write_fn)(unsigned long long, const void *, size_t, void *);
typedef int (*stream_fn)(void **, unsigned);
typedef int (*sync_fn)(void *);
typedef int (*lock_fn)(void *, size_t, unsigned);
typedef int (*unlock_fn)(void *);
typedef int (*total_fn)(size_t *, int);

static void *context, *stream;
static size_t total;
static current_fn set_current;
static read_fn read_memory;
static write_fn write_memory;
static sync_fn sync_stream;
static lock_fn lock_memory;
static unlock_fn unlock_memory;

static int cuda_open(void) {
	void *lib = dlopen("libcuda.so.1", RTLD_NOW);
	if (!lib) return -1;
	init_fn init = (init_fn)dlsym(lib, "cuInit");
	device_fn get = (device_fn)dlsym(lib, "cuDeviceGet");
	retain_fn retain = (retain_fn)dlsym(lib, "cuDevicePrimaryCtxRetain");
	set_current = (current_fn)dlsym(lib, "cuCtxSetCurrent");
	read_memory = (read_fn)dlsym(lib, "cuMemcpyDtoH_v2");
	stream_fn new_stream = (stream_fn)dlsym(lib, "cuStreamCreate");
	write_memory = (write_fn)dlsym(lib, "cuMemcpyHtoDAsync_v2");
	sync_stream = (sync_fn)dlsym(lib, "cuStreamSynchronize");
	lock_memory = (lock_fn)dlsym(lib, "cuMemHostRegister_v2");
	unlock_memory = (unlock_fn)dlsym(lib, "cuMemHostUnregister");
	total_fn get_total = (total_fn)dlsym(lib, "cuDeviceTotalMem_v2");
	int device;
	if (!init || !get || !retain || !set_current || !read_memory || !new_stream || !write_memory || !sync_stream || !lock_memory || !unlock_memory || !get_total) return -1;
	int err = init(0);
	if (!err) err = get(&device, 0);
	if (!err) err = get_total(&total, device);
	if (!err) err = retain(&context, device);
	if (!err) err = set_current(context);
	if (!err) err = new_stream(&stream, 1); // does not wait for the default stream
	return err;
}

static int cuda_read(void *dst, unsigned long long src, size_t size) {
	int err = set_current(context);
	return err ? err : read_memory(dst, src, size);
}

static int cuda_write(unsigned long long dst, const void *src, size_t size) {
	int err = set_current(context);
	return err ? err : write_memory(dst, src, size, stream);
}

static int cuda_written(void) {
	int err = set_current(context);
	return err ? err : sync_stream(stream);
}

static int cuda_lock(void *p, size_t size) {
	int err = set_current(context);
	return err ? err : lock_memory(p, size, 1); // for all contexts
}

static size_t cuda_total(void) { return total; }

static int cuda_unlock(void *p) {
	int err = set_current(context);
	return err ? err : unlock_memory(p);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"unsafe"

	"github.com/gomlx/compute"
)

var opened = sync.OnceValue(func() bool { return C.cuda_open() == 0 })

// CUDA reports whether the CUDA driver can be used.
func CUDA() bool { return opened() }

// DeviceMemory returns the size of a CUDA device's memory in bytes, 0 if it is unknown.
// XLA's pool is a part of it.
func DeviceMemory() int64 {
	if !CUDA() {
		return 0
	}
	return int64(C.cuda_total())
}

// cudaRead copies a buffer of a CUDA device, whose computation is complete, and
// reports whether it did. PJRT's copy takes 100 us, waiting for other threads.
func cudaRead(dst []float32, b compute.Buffer) bool {
	if len(dst) == 0 || !CUDA() {
		return false
	}
	flat, err := b.Data() // an address on the device
	if err != nil {
		return false
	}
	address := reflect.ValueOf(flat).Pointer()
	return C.cuda_read(unsafe.Pointer(unsafe.SliceData(dst)), C.ulonglong(address), C.size_t(4*len(dst))) == 0
}

// Write copies to buffers that no program is using, beside programs that run, on a
// stream of its own. From page-locked memory (see Lock) the bus is the limit: 48-53
// GB/s on an H100, where PJRT's uploads have 1-20.
func Write(copies []Copy) error {
	var failed error
	for _, c := range copies {
		flat, err := c.To.Data() // an address on the device
		if err == nil {
			address := reflect.ValueOf(flat).Pointer() + uintptr(c.Offset)
			code := C.cuda_write(C.ulonglong(address), unsafe.Pointer(unsafe.SliceData(c.From)), C.size_t(len(c.From)))
			err = cudaError(code, "copying %d bytes to the device", len(c.From))
		}
		if err != nil {
			failed = err
			break
		}
	}
	// What began must end: the caller uses its memory again.
	return errors.Join(failed, cudaError(C.cuda_written(), "copying to the device"))
}

// cudaError returns an error for a code other than 0.
func cudaError(code C.int, format string, args ...any) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf(format+": CUDA error %d", append(args, code)...)
}

// Lock page-locks memory.
func Lock(b []byte) error {
	if !CUDA() {
		return errors.New("libcuda.so.1 cannot be used")
	}
	return cudaError(C.cuda_lock(unsafe.Pointer(unsafe.SliceData(b)), C.size_t(len(b))), "page-locking %d bytes of host memory", len(b))
}

// Unlock undoes Lock.
func Unlock(b []byte) { C.cuda_unlock(unsafe.Pointer(unsafe.SliceData(b))) }
