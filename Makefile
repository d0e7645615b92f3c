# Hearth. `make help` lists the targets.
SHELL   := /bin/bash
comma   := ,
CC      ?= cc
B       ?= build
VERSION := $(shell cat VERSION)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
SAN     ?=
CUDA    ?= 0

PKGS    := libmicrohttpd yaml-0.1 libcrypto
OPT_PKGS := $(shell pkg-config --exists libsystemd && echo libsystemd)
ifneq ($(SAN),)
  B        := build/san-$(subst $(comma),-,$(SAN))
  SANFLAGS := -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
endif

# -ffp-contract=off: a fused multiply-add happens only where the code writes one, so that bits do not depend on the compiler.
CFLAGS  ?= -O2 -g
HFLAGS   = -std=gnu17 -Wall -Wextra -Werror -Wno-unused-parameter -ffp-contract=off -fno-strict-overflow -I. -pthread \
           -D_GNU_SOURCE $(if $(OPT_PKGS),-DHAVE_SYSTEMD) $(PKG_CFLAGS) $(SANFLAGS)
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
.SECONDARY: $(SUPPORT)

.PHONY: all bench-http clean deps test unit fuzz fuzz-run help FORCE
all: $(B)/hearthd

$(B)/hearthd: $(B)/server/main.o $(B)/libhearth.a
	$(CC) $(SANFLAGS) -pie -o $@ $(B)/server/main.o $(B)/libhearth.a $(LIBS)

$(B)/libhearth.a: $(OBJ) $(B)/gen/objects.stamp
	@rm -f $@
	ar rcs $@ $(OBJ)

# Kernels for one ISA each; the right one is chosen at run time.
$(B)/engine/compute/cpu_%_avx2.o: ISA := -mavx2 -mfma -mf16c -O3
$(B)/engine/compute/cpu_%_avx512.o: ISA := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -O3

$(B)/%.o: %.c $(B)/gen/flags.stamp
	@mkdir -p $(@D)
	$(CC) $(HFLAGS) $(CFLAGS) $(ISA) $(ABOUT) -fPIE -MMD -MP -c -o $@ $<

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
	$(CC) $(HFLAGS) $(CFLAGS) -fPIE -MMD -MP -c -o $@ $<

# File names become the tables of families, loaders and routes (constructors vanish from static libraries).
$(B)/gen/registry.c: scripts/registry.sh $(SRC)
	@mkdir -p $(@D)
	@bash scripts/registry.sh >$@.tmp && { cmp -s $@.tmp $@ || cp $@.tmp $@; touch $@; }

$(B)/tests/unit/test_http_tls: LIBS += -lssl
$(B)/tests/%: tests/%.c $(B)/libhearth.a $(SUPPORT)
	@mkdir -p $(@D)
	$(CC) $(HFLAGS) $(CFLAGS) -MMD -MP -o $@ $< $(SUPPORT) $(B)/libhearth.a $(LIBS) $(shell pkg-config --libs check)

# It stands in front of the sanitizers' malloc, and is called before they are up.
$(B)/tests/support/failing_malloc.o: private SANFLAGS :=

# A fuzzer is tests/fuzz/fuzz_NAME.c with seeds in tests/fuzz/corpus/NAME/. `make unit` replays the seeds, with any compiler.
$(B)/tests/fuzz/replay_%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c $(SUPPORT) $(B)/libhearth.a
	@mkdir -p $(@D)
	$(CC) $(HFLAGS) $(CFLAGS) -DFUZZ_NAME='"$*"' -o $@ $^ $(LIBS) $(shell pkg-config --libs check)

$(B)/tests/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(SUPPORT) $(B)/libhearth.a
	@mkdir -p $(@D)
	$(CC) $(HFLAGS) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS) $(shell pkg-config --libs check)

fuzz: ## run every fuzzer under clang's sanitizers, FUZZ_RUNS executions each
	@command -v clang >/dev/null || { echo "make fuzz needs clang with libFuzzer: scripts/deps.sh --test installs it"; exit 1; }
	@$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined B=build/fuzz fuzz-run

fuzz-run: $(FUZZ_SRC:tests/%.c=$(B)/tests/%)
	@bash tests/fuzz/run.sh $^

unit: $(TEST_BIN) $(REPLAYS) ## build and run the C tests
	@bash tests/support/run_c.sh $(TEST_BIN) $(REPLAYS)

bench-http: $(B)/tests/bench/bench_http ## CPU of the HTTP thread for a chunk of a stream
	@$<

test: deps ## set up and run every test
	@$(MAKE) --no-print-directory unit

deps:
	@bash scripts/deps.sh

clean:
	rm -rf build

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | column -ts $$'\t'

-include $(shell find $(B) -name '*.d' 2>/dev/null)
