// SPDX-License-Identifier: GPL-2.0
/*
 * Selects an injected bug: ksm_mutant=NUMBER on the kernel command line, or a write to
 * /sys/kernel/mm/ksm_mutant. Both are outside /sys/kernel/mm/ksm, so that whoever saves and
 * restores KSM's settings leaves them alone. /sys/kernel/mm/ksm_mutant_hits counts how often the
 * code of the selected bug was reached since it was selected.
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/ksm_mutant.h>
#include <linux/mm.h>
#include <linux/sysfs.h>

unsigned int ksm_mutant_selected __read_mostly;
atomic_long_t ksm_mutant_hits = ATOMIC_LONG_INIT(0);

static int __init ksm_mutant_setup(char *text)
{
	return kstrtouint(text, 10, &ksm_mutant_selected);
}
early_param("ksm_mutant", ksm_mutant_setup);

static ssize_t ksm_mutant_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", ksm_mutant_selected);
}

static ssize_t ksm_mutant_store(struct kobject *kobj, struct kobj_attribute *attr,
				const char *buf, size_t count)
{
	unsigned int number;
	int err = kstrtouint(buf, 10, &number);

	if (err)
		return err;
	atomic_long_set(&ksm_mutant_hits, 0);
	WRITE_ONCE(ksm_mutant_selected, number);
	return count;
}

static ssize_t ksm_mutant_hits_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&ksm_mutant_hits));
}

static struct kobj_attribute selected_attr = __ATTR_RW(ksm_mutant);
static struct kobj_attribute hits_attr = __ATTR_RO(ksm_mutant_hits);

static int __init ksm_mutant_init(void)
{
	int err = sysfs_create_file(mm_kobj, &selected_attr.attr);

	return err ?: sysfs_create_file(mm_kobj, &hits_attr.attr);
}
late_initcall(ksm_mutant_init);
