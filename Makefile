# Hearth. `make help` lists the targets.
SHELL   := /bin/bash
comma   := ,
# As many jobs as processors, unless told otherwise.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
  MAKEFLAGS += -j$(shell nproc)
endif
CC      ?= cc
B       ?= build
VERSION := $(shell cat VERSION)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
SAN     ?=
# A line a file; V=1 shows the commands.
say      = $(if $(filter 1,$(V)),,@echo '  $(1)$(@:$(B)/%=%)'; )
# 1 where nvcc is: the GPU backend as a library beside hearthd. CUDA=0 leaves it out.
CUDA    ?= $(if $(and $(shell command -v nvcc),$(if $(SAN),,1)),1,0)

PKGS    := libmicrohttpd yaml-0.1 libcrypto
OPT_PKGS := $(foreach p,libsystemd liburing,$(shell pkg-config --exists $(p) && echo $(p)))
ifneq ($(SAN),)
  B        := build/san-$(subst $(comma),-,$(SAN))
  SANFLAGS := -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
endif

# -ffp-contract=off: a fused multiply-add happens only where the code writes one, so that bits do not depend on the compiler.
CFLAGS  ?= -O2 -g
HFLAGS   = -std=gnu17 -Wall -Wextra -Werror -Wno-unused-parameter -ffp-contract=off -fno-strict-overflow -I. -pthread \
           -D_GNU_SOURCE $(if $(filter libsystemd,$(OPT_PKGS)),-DHAVE_SYSTEMD) $(if $(filter liburing,$(OPT_PKGS)),-DHAVE_LIBURING) $(PKG_CFLAGS) $(SANFLAGS)
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) $(OPT_PKGS) 2>/dev/null)
LIBS    := $(shell pkg-config --libs $(PKGS) $(OPT_PKGS) 2>/dev/null) -pthread -lm
HARDEN   = -D_FORTIFY_SOURCE=2 -fstack-protector-strong
ifeq ($(SAN),)
  HFLAGS += $(HARDEN)
endif

SRC     := $(filter-out server/main.c,$(sort $(wildcard server/*.c engine/*.c engine/*/*.c)))
OBJ     := $(SRC:%.c=$(B)/%.o) $(B)/gen/registry.o
TEST_SRC := $(sort $(wildcard tests/unit/test_*.c tests/ops/test_*.c tests/golden/test_*.c tests/fault/test_*.c))
TEST_BIN := $(TEST_SRC:tests/%.c=$(B)/tests/%)
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
REPLAYS  := $(FUZZ_SRC:tests/fuzz/fuzz_%.c=$(B)/tests/fuzz/replay_%)
SUPPORT  := $(patsubst %.c,$(B)/%.o,$(wildcard tests/support/*.c))
.PRECIOUS: $(B)/%.o

.PHONY: all bench bench-tiers bench-http bench-ops bench-model clean deps soak test test-run test-build unit fuzz fuzz-run serve help FORCE
all: $(B)/hearthd $(B)/hearth-sim $(if $(filter 1,$(CUDA)),$(B)/libhearth_cuda.so) ##3 build/hearthd, build/hearth-sim, and build/libhearth_cuda.so where nvcc is

$(B)/hearthd: $(B)/server/main.o $(B)/libhearth.a
	$(call say,LINK  )$(CC) $(SANFLAGS) -pie -o $@ $(B)/server/main.o $(B)/libhearth.a $(LIBS)

$(B)/libhearth.a: $(OBJ) $(B)/gen/objects.stamp
	@rm -f $@
	$(call say,AR    )ar rcs $@ $(OBJ)

# Kernels for one ISA each; the right one is chosen at run time. They unroll: sanitizers make minutes of that at -O3, and
# no fuzzer reaches them.
KERNELS_O := $(if $(SAN),-O1,-O3)
$(B)/engine/compute/cpu_%_avx2.o: ISA := -mavx2 -mfma -mf16c $(KERNELS_O)
$(B)/engine/compute/cpu_%_avx512.o: ISA := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni $(KERNELS_O)
ifneq ($(findstring fuzzer,$(SAN)),)
  $(B)/engine/compute/cpu_%_avx2.o $(B)/engine/compute/cpu_%_avx512.o: private SANFLAGS :=
endif

$(B)/%.o: %.c $(B)/gen/flags.stamp
	@mkdir -p $(@D)
	$(call say,CC    )$(CC) $(HFLAGS) $(CFLAGS) $(ISA) $(ABOUT) -fPIE -MMD -MP -c -o $@ $<

# -- cuda/ becomes a library with one symbol; it carries its own copy of the few C files it calls. Machine code for these
# GPUs, and PTX that newer ones compile at start.
CUDA_SRC   := $(sort $(wildcard cuda/*.cu))
CUDA_OBJ   := $(CUDA_SRC:%.cu=$(B)/%.o) $(patsubst %,$(B)/pic/engine/%.o,base/err base/log base/sys)
CUDA_ARCH  ?= compute_80,code=[sm_80$(comma)compute_80] compute_89,code=sm_89 compute_90a,code=sm_90a
CUDA_HOME  := $(patsubst %/bin/nvcc,%,$(shell command -v nvcc))
NVFLAGS     = -std=c++20 -O3 -lineinfo -I. --threads 2 $(CUDA_ARCH:%=-gencode arch=%) \
              -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror,-Wno-unused-parameter
$(B)/libhearth_cuda.so: $(CUDA_OBJ)
	$(call say,LINK  )nvcc -shared -o $@ $^ -lcublasLt -Xlinker --no-undefined,--exclude-libs=ALL,-rpath=$(CUDA_HOME)/lib64

$(B)/cuda/%.o: cuda/%.cu $(B)/gen/nvflags.stamp
	@mkdir -p $(@D)
	$(call say,NVCC  )nvcc $(NVFLAGS) -MMD -MP -c -o $@ $<

$(B)/pic/%.o: %.c $(B)/gen/flags.stamp
	@mkdir -p $(@D)
	$(call say,CC    )$(CC) $(HFLAGS) $(CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

# Programs that look inside the backend: linked with its objects.
$(B)/tests/bench/%: tests/bench/%.cu $(CUDA_OBJ) $(B)/pic/engine/kv/layout.o
	@mkdir -p $(@D)
	$(call say,NVCC  )nvcc $(NVFLAGS) -MMD -MP -o $@ $(filter %.cu %.o,$^) -lcublasLt -Xlinker -rpath=$(CUDA_HOME)/lib64

$(B)/gen/nvflags.stamp: STAMP = $(NVFLAGS)

# A stamp is touched when its text changes: what depends on it is rebuilt then, and only then.
# Version, commit and libraries change with each commit: one object knows them, and it is rebuilt only when they change.
LIBRARIES := $(shell for p in $(PKGS) $(OPT_PKGS); do echo "$$p $$(pkg-config --modversion $$p 2>/dev/null)$(comma)"; done)
$(B)/engine/base/version.o: ABOUT := -DHEARTH_VERSION='"$(VERSION)"' -DHEARTH_COMMIT='"$(COMMIT)"' \
                                     -DHEARTH_LIBRARIES='"$(LIBRARIES)"'
$(B)/engine/base/version.o: $(B)/gen/version.stamp
$(B)/gen/version.stamp: STAMP = $(VERSION) $(COMMIT) $(LIBRARIES)
$(B)/gen/objects.stamp: STAMP = $(OBJ)
$(B)/gen/flags.stamp: STAMP = $(CC) $(HFLAGS) $(CFLAGS)
$(B)/gen/%.stamp: FORCE
	@mkdir -p $(@D)
	@echo '$(STAMP)' | cmp -s - $@ || echo '$(STAMP)' >$@
FORCE:

$(B)/gen/%.o: $(B)/gen/%.c
	$(call say,CC    )$(CC) $(HFLAGS) $(CFLAGS) -fPIE -MMD -MP -c -o $@ $<

# File names become the tables of families, loaders and routes (constructors vanish from static libraries).
$(B)/gen/registry.c: scripts/registry.sh $(SRC)
	@mkdir -p $(@D)
	@bash scripts/registry.sh >$@.tmp && { cmp -s $@.tmp $@ || cp $@.tmp $@; touch $@; }

$(B)/tests/unit/test_http_tls: LIBS += -lssl
$(B)/tests/%: $(B)/tests/%.o $(SUPPORT) $(B)/libhearth.a
	$(call say,LINK  )$(CC) $(SANFLAGS) -pie -o $@ $(filter %.o %.a,$^) $(LIBS) $(shell pkg-config --libs check)

# It stands in front of the sanitizers' malloc, and is called before they are up.
$(B)/tests/support/failing_malloc.o: private SANFLAGS :=

# A fuzzer is tests/fuzz/fuzz_NAME.c with seeds in tests/fuzz/corpus/NAME/. `make unit` replays the seeds, with any compiler.
$(B)/tests/fuzz/replay_%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c $(SUPPORT) $(B)/libhearth.a
	@mkdir -p $(@D)
	$(call say,LINK  )$(CC) $(HFLAGS) $(CFLAGS) -DFUZZ_NAME='"$*"' -o $@ $^ $(LIBS) $(shell pkg-config --libs check)

$(B)/tests/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(SUPPORT) $(B)/libhearth.a
	@mkdir -p $(@D)
	$(call say,LINK  )$(CC) $(HFLAGS) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS) $(shell pkg-config --libs check)

fuzz: ##4 run every fuzzer under clang's sanitizers
	@bash scripts/deps.sh --fuzz
	@$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined B=build/fuzz fuzz-run

fuzz-run: $(FUZZ_SRC:tests/%.c=$(B)/tests/%)
	@bash tests/fuzz/run.sh $^

# -- tests. HEARTHD and HEARTH_MODEL tell them what to test and with which model.
RUN     = python3 tests/support/run.py --python .venv/bin/python --c $(TEST_BIN) $(REPLAYS)
ORACLES := $(wildcard tests/golden/*_oracle.py)
CLIS    := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/golden/*_cli.c))
PYTESTS := $(wildcard tests/api tests/scripts)
# Sanitizers: the C tests; with the address sanitizer the API tests, too.
ifneq ($(SAN),)
  ORACLES :=
  CLIS    :=
  PYTESTS := $(if $(findstring address,$(SAN)),$(wildcard tests/api))
endif
export ASAN_OPTIONS  ?= strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS ?= print_stacktrace=1
export TSAN_OPTIONS  ?= halt_on_error=1:second_deadlock_stack=1
export CK_TIMEOUT_MULTIPLIER ?= $(if $(SAN),5,1)

test: ##2 set up and run every test (SAN=address,undefined or SAN=thread: with a sanitizer)
	@bash scripts/deps.sh --test
	@$(MAKE) --no-print-directory test-run

bench: all $(B)/tests/bench/hearthd-stub ##5 the table of speed (LLAMA_SERVER=PATH for the rows beside llama.cpp)
	@HEARTH_MODEL=$${HEARTH_MODEL:-$$(bash scripts/fetch_model.sh | tail -n 1)} python3 tests/bench/bench_server.py $(BENCH_ARGS)
	@$(MAKE) --no-print-directory bench-tiers

BENCH_DIR ?= /tmp
bench-tiers: all $(B)/tests/bench/bench_tiers $(B)/tests/bench/bench_moves ##5 drives and DRAM beside plain reads, JSON rows (BENCH_DIR=FOLDER: 5 GB there)
	@$(B)/tests/bench/bench_tiers T1 T8 $(BENCH_DIR)
	@[ ! -w /dev/shm ] || $(B)/tests/bench/bench_tiers T1 /dev/shm
	@$(B)/tests/bench/bench_moves T2 T3 T7 $(BENCH_DIR)
	@python3 tests/bench/bench_resume.py T10 --backend cpu --model $${HEARTH_MODEL:-$$(bash scripts/fetch_model.sh | tail -n 1)} --vocab 49000 --format kv16 \
	    --tokens 2048 --nvme 2GiB --dir $(BENCH_DIR)

# A whole hearthd whose backend computes nothing.
$(B)/tests/bench/hearthd-stub: $(B)/tests/bench/stub_backend.o $(B)/server/main.o $(B)/libhearth.a
	$(call say,LINK  )$(CC) $(SANFLAGS) -pie -o $@ $^ $(LIBS)

# The engine's scheduler and tiers on a trace, without a model (tests/support/sim.h).
$(B)/hearth-sim: $(patsubst %,$(B)/tests/%.o,bench/hearth_sim support/sim support/sim_tier support/mooncake) $(B)/libhearth.a
	$(call say,LINK  )$(CC) $(SANFLAGS) -pie -o $@ $^ $(LIBS)

bench-ops: $(B)/tests/bench/bench_ops ##5 each op of the CPU backend beside what the machine gives
	@$< $(BENCH_ARGS)

bench-model: $(B)/tests/bench/bench_model ##5 the CPU backend with a whole model (LLAMA_BIN=FOLDER: beside llama.cpp)
	@bash tests/bench/bench_model.sh $< $${HEARTH_MODEL:-$$(bash scripts/fetch_model.sh | tail -n 1)}

bench-http: $(B)/tests/bench/bench_http ##5 CPU of the HTTP thread for a chunk of a stream
	@$<

test-run: all test-build
	@bash scripts/test_setup.sh
	@HEARTHD=$(B)/hearthd HEARTH_MODEL="$$(bash scripts/fetch_model.sh)" $(RUN) --oracle $(ORACLES) --pytest $(PYTESTS)

test-build: $(TEST_BIN) $(REPLAYS) $(CLIS) $(B)/tests/bench/hearthd-stub

# Long forms of what runs short in `make test`, then random tests with other seeds until SOAK_MINUTES are over.
SOAK_LONG   := unit/test_tiers_model fault/test_tier_faults
SOAK_RANDOM := unit/test_tiers unit/test_tiers_late unit/test_session unit/test_tiers_model unit/test_collide unit/test_evict \
               unit/test_engine
soak: $(SOAK_LONG:%=$(B)/tests/%) $(SOAK_RANDOM:%=$(B)/tests/%) ##4 the tiers for half an hour at least (SOAK_MINUTES=30)
	@python3 scripts/soak.py --minutes $(or $(SOAK_MINUTES),30) --long $(SOAK_LONG:%=$(B)/tests/%) --random $(SOAK_RANDOM:%=$(B)/tests/%)

unit: $(TEST_BIN) $(REPLAYS) ##4 build and run the C tests alone
	@HEARTH_MODEL="$$(bash scripts/fetch_model.sh)" $(RUN)

GPU_TESTS := $(filter $(B)/tests/ops/test_cuda_% $(B)/tests/golden/test_cuda_%,$(TEST_BIN))
gpu-test: all $(GPU_TESTS) ##6 the tests of the CUDA backend (each skips where there is no GPU)
	@B=$(B) bash scripts/gpu_test.sh

GPU_BENCHES := $(patsubst %,$(B)/tests/bench/%,bench_gpu bench_linear bench_prefill bench_attn bench_long bench_moves)
gpu-bench: all $(GPU_BENCHES) ##6 steps, prefill, sampler, linear layers, attention beside what the GPU allows, JSON rows (ROWS="E1 K8")
	@B=$(B) bash scripts/gpu_run.sh bench $(ROWS)

gpu-serve: all $(GPU_BENCHES) ##6 a server on the GPU over HTTP: saturated, and first tokens, JSON rows (BENCH_ARGS=...)
	@B=$(B) bash scripts/gpu_run.sh serve $(BENCH_ARGS)

gpu-peers: all $(GPU_BENCHES) ##6 decode and prefill beside compiled PyTorch, which must be there, JSON rows (BENCH_ARGS=...)
	@B=$(B) bash scripts/gpu_run.sh peers $(BENCH_ARGS)

gpu-tiers: all $(GPU_BENCHES) ##6 KV between drives, DRAM and the GPU, sessions that resume, JSON rows (BENCH_DIR=FOLDER: 30 GB there)
	@B=$(B) bash scripts/gpu_run.sh tiers $(BENCH_ARGS)

gpu-long: all $(GPU_BENCHES) $(filter %/test_cuda_long,$(GPU_TESTS)) ##6 up to a million tokens, JSON rows (PART="rows equal 8b 1b")
	@B=$(B) bash scripts/gpu_run.sh long $(PART)

gpu-bundle: all $(GPU_TESTS) $(GPU_BENCHES) ##6 pack programs, libraries and scripts for a GPU host: build/gpu-bundle.tar.gz
	@bash scripts/gpu_bundle.sh $(B) $(B)/gpu-bundle.tar.gz $(GPU_TESTS) $(GPU_BENCHES)

.PHONY: gpu-test gpu-bench gpu-serve gpu-peers gpu-tiers gpu-long gpu-bundle
# -- set-up and running. Where there is no GPU, serving does not wait for its backend to be compiled.
serve: ##1 set up, build, get the default model and serve it (MODEL=PATH: another; ARGS="--port 9000": flags)
	@bash scripts/deps.sh
	@$(MAKE) --no-print-directory $(if $(wildcard /proc/driver/nvidia/version),all,$(B)/hearthd)
	@model=$$(bash scripts/fetch_model.sh $(MODEL)) && exec $(B)/hearthd --model "$$model" $(ARGS)

lint: ##4 format, include directions, cppcheck, clang-tidy, hearth.yaml, the unit's exposure
	@bash scripts/deps.sh --lint
	@$(MAKE) --no-print-directory $(B)/tests/unit/test_config
	@bash scripts/lint.sh $(B)/tests/unit/test_config

# PREFIX=/usr for packages. An /etc/hearth/hearth.yaml that is there stays as it is.
PREFIX     ?= /usr/local
BINDIR     ?= $(PREFIX)/bin
SYSCONFDIR ?= /etc
UNITDIR    ?= $(PREFIX)/lib/systemd/system
CONF       = $(DESTDIR)$(SYSCONFDIR)/hearth/hearth.yaml
install: all ##7 binary, configuration, unit, sysusers, tmpfiles (DESTDIR= PREFIX=/usr/local)
	install -D -m 755 $(B)/hearthd $(DESTDIR)$(BINDIR)/hearthd
	[ ! -e $(B)/libhearth_cuda.so ] || install -D -m 644 $(B)/libhearth_cuda.so $(DESTDIR)$(PREFIX)/lib/hearth/libhearth_cuda.so
	install -D -m 644 config/hearth.yaml $(DESTDIR)$(PREFIX)/share/hearth/hearth.yaml
	[ -e $(CONF) ] || install -D -m 644 config/hearth.yaml $(CONF)
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|@BINDIR@|$(BINDIR)|; s|/etc/hearth|$(SYSCONFDIR)/hearth|' systemd/hearthd.service >$(DESTDIR)$(UNITDIR)/hearthd.service
	chmod 644 $(DESTDIR)$(UNITDIR)/hearthd.service
	install -D -m 644 systemd/hearthd.sysusers $(DESTDIR)/usr/lib/sysusers.d/hearthd.conf
	install -D -m 644 systemd/hearthd.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/hearthd.conf
	@echo "next: model.path in $(SYSCONFDIR)/hearth/hearth.yaml; systemd-sysusers; systemd-tmpfiles --create; systemctl enable --now hearthd"

.PHONY: lint install
deps: ##7 install what the build needs
	@bash scripts/deps.sh

clean: ##8 remove what was built
	rm -rf build

# The digit behind ## is a target's place.
help: ##8 this list
	@echo 'make TARGET [VARIABLE=VALUE ...]; `make serve` and `make test` need nothing else.'
	@echo
	@sed -nE 's/^([a-z-]+):[^#]*##([0-9]) /\2\t\1\t/p' Makefile | sort -s -n -k1,1 | awk -F'\t' '{ printf "  %-12s %s\n", $$2, $$3 }'
	@echo
	@echo '  CC=clang     another compiler           V=1          whole commands instead of a line a file'
	@echo '  CUDA=0       without the GPU library    FUZZ_RUNS=N  executions of each fuzzer'
	@echo '  HEARTH_CACHE=FOLDER  where models are kept (~/.cache/hearth/models)'

-include $(shell find $(B) -name '*.d' 2>/dev/null)
