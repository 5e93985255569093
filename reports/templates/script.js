// SPDX-License-Identifier: GPL-2.0
// Filters of the matrix. They are kept behind the # of the address, so that one can pass it on.
"use strict";
(() => {
	const form = document.getElementById("filters");
	const rows = [...document.querySelectorAll("#matrix tbody tr:not(.module)")];
	const heads = [...document.querySelectorAll("#matrix thead th")];
	const names = ["show", "reason", "kernel", "name"];

	function matches(cell, wanted) {
		const { result, reason } = cell.dataset;
		const shown = wanted.show === "changed"
			? cell.classList.contains("changed")
			: wanted.show === "" || wanted.show.split(" ").includes(result);
		return result !== undefined && shown && (wanted.reason === "" || wanted.reason === reason);
	}

	function apply() {
		const wanted = Object.fromEntries(names.map(name => [name, form.elements[name].value]));
		const text = wanted.name.toLowerCase();
		const all = wanted.show === "" && wanted.reason === "";
		let count = 0;
		const column = index => wanted.kernel === "" || index === 0 || index === Number(wanted.kernel);
		heads.forEach((head, index) => { head.hidden = !column(index); });
		for (const row of rows) {
			const module = row.parentElement.rows[0].textContent;
			let found = false;
			for (const cell of row.cells) {
				cell.hidden = !column(cell.cellIndex);
				if (cell.cellIndex === 0 || cell.hidden)
					continue;
				const match = matches(cell, wanted);
				cell.classList.toggle("other", !all && !match);
				found ||= match;
			}
			row.hidden = !(found && (module + "::" + row.cells[0].textContent).toLowerCase().includes(text));
			count += row.hidden ? 0 : 1;
		}
		for (const body of document.querySelectorAll("#matrix tbody"))
			body.hidden = [...body.rows].slice(1).every(row => row.hidden);
		document.getElementById("count").textContent = `${count} of ${rows.length} tests`;
		return wanted;
	}

	function keep() {
		const chosen = Object.entries(apply()).filter(([, value]) => value !== "");
		history.replaceState(null, "", "#" + new URLSearchParams(chosen));
	}

	function restore() {
		const kept = new URLSearchParams(location.hash.slice(1));
		for (const name of names)
			form.elements[name].value = kept.get(name) ?? "";
		for (const select of form.querySelectorAll("select"))
			if (select.selectedIndex < 0)
				select.value = "";
		apply();
	}

	form.hidden = false;
	form.addEventListener("input", keep);
	form.addEventListener("change", keep);
	form.addEventListener("submit", event => event.preventDefault());
	form.addEventListener("reset", () => setTimeout(keep));
	addEventListener("hashchange", restore);
	restore();
})();
